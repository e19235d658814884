"""Between steps parameters lie in blocks; whoever looks at them, and every file, sees them as they are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import mdsl
from mdsl.bytecode.module import Layout
from mdsl.training.checkpoints import load
from mdsl.training.held import Held

NET = """func.func @main(%x: tensor<1x32x4x4xf32>) -> tensor<1x48xf32> {
  %conv_weight = arith.constant dense<0.0> : tensor<64x32x3x3xf32>
  %fc_weight = arith.constant dense<0.0> : tensor<48x1024xf32>
  %c = nn.conv2d %x, %conv_weight {pads = [1, 1, 1, 1]} : (tensor<1x32x4x4xf32>, tensor<64x32x3x3xf32>) -> tensor<1x64x4x4xf32>
  %r = nn.relu %c : (tensor<1x64x4x4xf32>) -> tensor<1x64x4x4xf32>
  %f = nn.flatten %r : (tensor<1x64x4x4xf32>) -> tensor<1x1024xf32>
  %y = nn.linear %f, %fc_weight : (tensor<1x1024xf32>, tensor<48x1024xf32>) -> tensor<1x48xf32>
  return %y : tensor<1x48xf32>
}"""
SHAPES = {"conv_weight": (64, 32, 3, 3), "fc_weight": (48, 1024)}


def samples() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "x": random.standard_normal((64, 32, 4, 4), np.float32),
        "labels": random.integers(0, 48, 64),
    }


def trainer_of(engine: str = "vm") -> mdsl.Trainer:
    return mdsl.Trainer(NET, samples(), init="random", optimizer="sgd{momentum=0.9}", batch=16, engine=engine)


def test_who_looks_between_steps_changes_nothing(tmp_path: Path) -> None:
    """A run whose weights are looked at, judged by and written after each step gives the bits of one that nobody disturbs."""
    whole, watched = trainer_of(), trainer_of()
    whole.train(5)
    for step in range(1, 6):
        watched.train(step, checkpoint=tmp_path / "c.safetensors", every=1)
        watched.evaluate(samples())
        assert {name: array.shape for name, array in watched.parameters.items()} == SHAPES
    assert watched.losses == whole.losses
    for name, array in whole.parameters.items():
        np.testing.assert_array_equal(watched.parameters[name], array)


def test_a_file_holds_weights_and_states_as_they_are_known(tmp_path: Path) -> None:
    trainer, other = trainer_of(), trainer_of("reference")
    for each, name in ((trainer, "vm"), (other, "reference")):
        each.train(3, checkpoint=tmp_path / f"{name}.safetensors")
    arrays, *_ = load(tmp_path / "vm.safetensors")
    wanted, *_ = load(tmp_path / "reference.safetensors")
    assert arrays.keys() == wanted.keys() and {*SHAPES} < arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-3, atol=1e-4, err_msg=name)
    other.resume(tmp_path / "vm.safetensors")
    np.testing.assert_allclose(other.train(6), trainer.train(6), rtol=1e-3)


def test_what_is_held_is_moved_when_somebody_asks() -> None:
    held = Held({"w": Layout(0, ((0, 2), (1,)))}, {"w": (2, 3, 4)})
    plain = np.arange(24.0).reshape(8, 3)
    held.update(w=plain, x=plain)
    assert held.take("x") is plain
    blocks = held.take("w")
    assert blocks.shape == (2, 3, 4) and blocks[1, 2, 3] == plain[7, 2] and held.take("w") is blocks
    held.put("w", blocks + 1)
    np.testing.assert_array_equal(held["w"], plain + 1)
    held["w"][0, 0] = 9  # what is seen is what is held
    assert held.take("w")[0, 0, 0] == 9
    held["w"] = plain
    assert held["w"] is plain and len(held) == 2
    del held["w"]
    assert [*held] == ["x"]
