"""Training beside torch's: from the same weights, on the same batches, the loss follows step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mdsl

pytest.importorskip("onnx")
torch: Any = pytest.importorskip("torch")
torch.set_num_threads(1)

from torch_networks import Transformer, cnn, export, learn, mlp, resnet50  # noqa: E402

DIGITS = Path(__file__).parents[2] / "examples" / "mnist" / "digits.npz"
STEPS = 200


@dataclass(frozen=True)
class Run:
    """How a network is trained, in mdsl's words and in torch's."""

    make: Callable[[], Any]
    optimizer: str
    lr: float
    torch: Callable[..., Any]
    batch: int = 32


def sgd(parameters: Any, lr: float) -> Any:
    return torch.optim.SGD(parameters, lr, momentum=0.9, nesterov=True)


def adam(parameters: Any, lr: float) -> Any:
    return torch.optim.Adam(parameters, lr)


def adamw(parameters: Any, lr: float) -> Any:
    return torch.optim.AdamW(parameters, lr, weight_decay=0.01)


def amsgrad(parameters: Any, lr: float) -> Any:
    return torch.optim.AdamW(parameters, lr, betas=(0.9, 0.6), weight_decay=0.01, amsgrad=True)


AMSGRAD = "adamw{weight_decay=0.01,beta2=0.6,amsgrad=true}"
NESTEROV, ADAMW = "sgd{momentum=0.9,nesterov=true}", "adamw{weight_decay=0.01}"

RUNS = {
    "MLP": Run(mlp, NESTEROV, 0.01, sgd),
    "MLP, Adam": Run(mlp, "adam", 1e-4, adam),
    "MLP, AMSGrad": Run(mlp, AMSGRAD, 1e-4, amsgrad),
    "CNN": Run(cnn, NESTEROV, 1e-3, sgd),
    "CNN, AdamW": Run(cnn, ADAMW, 1e-4, adamw),
    "transformer": Run(Transformer, NESTEROV, 0.02, sgd),
    "transformer, Adam": Run(Transformer, "adam", 1e-3, adam),
}


def losses(run: Run, steps: int, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """mdsl's, torch's, and torch's in f64."""
    with np.load(DIGITS) as digits:
        images, labels = digits["images"][:, None] / np.float32(255), digits["labels"].astype(np.int64)
    torch.manual_seed(0)
    network = run.make()
    trainer = mdsl.Trainer(
        export(network, folder / "net.onnx"), {"image": images, "labels": labels},
        optimizer=run.optimizer, lr=run.lr, batch=run.batch, threads=2,
    )  # fmt: skip

    def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = trainer.batches(step)
        return images[chosen], labels[chosen]

    def optimizer(parameters: Any) -> Any:
        return run.torch(parameters, lr=run.lr)

    single, double = (learn(network, optimizer, batch, steps, d) for d in (False, True))
    return np.array(trainer.train(steps)), single, double


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_the_loss_follows_torch(name: str, tmp_path: Path) -> None:
    """Within 1e-3. Where normalisation by the batch, relu and max-pool make a network chaotic, torch in f32 leaves torch in
    f64 as well, and nobody can follow closer: then within three times as much as it has left it so far."""
    found, single, double = losses(RUNS[name], STEPS, tmp_path)
    assert single[-10:].mean() < 0.7 * single[0], "nothing was learnt"
    chaos = np.maximum.accumulate(np.abs(single - double) / double)
    assert chaos[50] < 1e-3, "the run says nothing: it is chaotic from the start"
    off = np.minimum(np.abs(found - single) / single, np.abs(found - double) / double)
    assert np.all(off <= np.maximum(1e-3, 3 * chaos)), (off.max(), chaos.max())


@pytest.mark.slow
def test_resnet50_begins_as_in_torch(tmp_path: Path) -> None:
    """The loss of the first step. From the second on torch in f32 is percents away from torch in f64: with 50 layers
    normalised by a batch of 8, of which the last ones see one pixel an image, no f32 follows another."""
    found, single, double = losses(Run(resnet50, NESTEROV, 1e-3, sgd, batch=8), 1, tmp_path)
    np.testing.assert_allclose(found, double, rtol=1e-4)
    np.testing.assert_allclose(single, double, rtol=1e-4)
