"""`mdsl train --mpi` and `Trainer(comm=...)`: two processes learn what one does, and end together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_trainer import CNN, DROPOUT, EXPLODING, samples

import mdsl
from mdsl.cli import command
from mdsl.training.processes import Processes
from tests.upstream import installed

MPIEXEC = installed("mpiexec")
needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or find_spec("mpi4py") is None, reason="needs mpi4py and an MPI library"
)
COMMON = ["train", "net.mir", "--data=train.npz", "--batch=16", "--lr=0.01", "--checkpoint-every=20"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.mir").write_text(DROPOUT)
    np.savez(tmp_path / "train.npz", **samples(DROPOUT))
    return tmp_path


def two(arguments: list[str]) -> subprocess.Popen[str]:
    """Two processes with these arguments."""
    return subprocess.Popen(
        [str(MPIEXEC), "-n", "2", sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    # Two processes that compile at once, on a machine that may have other work: this only tells them from those that hang.
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def command_of_two(arguments: list[str]) -> tuple[int, str, str]:
    return finished(two(["-m", "mdsl", *arguments, "--mpi"]))


@needs_mpi
def test_two_processes_give_what_one_gives_also_when_resumed(place: Path) -> None:
    """Dropout too: what a process drops is what one process would drop of these samples; with a scale of the loss, which both
    programs of a step read."""
    assert command([*COMMON, "--steps=40", "--loss-scale=dynamic,interval=30", "-o", "one.safetensors"]) == 0
    code, out, err = command_of_two(
        [*COMMON, "--steps=25", "--loss-scale=dynamic,interval=30", "-o", "two.safetensors"]
    )
    assert code == 0, err
    assert out.count("step 25/25") == 1
    code, out, err = command_of_two(
        [*COMMON, "--steps=40", "--loss-scale=dynamic,interval=30", "-o", "two.safetensors", "--resume"]
    )
    assert code == 0 and err.count("goes on after step 25") == 1, err
    one, both = load_file(place / "one.safetensors"), load_file(place / "two.safetensors")
    assert set(one) == set(both) and one["loss_scale"] == 2 * 65536
    for name, array in one.items():
        np.testing.assert_allclose(
            both[name], array, rtol=1e-5, atol=1e-5 * np.abs(array).max(), err_msg=name
        )


@needs_mpi
def test_errors_of_all_and_of_one_end_all(place: Path) -> None:
    (place / "net.mir").write_text(EXPLODING)
    wild = [*COMMON, "--lr=100", "--optimizer=sgd", "--steps=200"]
    code, _, err = command_of_two(wild)
    assert code == 1 and err.count("%big is infinity, of finite numbers") == 1, err
    (place / "one.py").write_text(ALONE)
    code, _, err = finished(two(["one.py"]))
    assert code != 0 and "ZeroDivisionError" in err


@needs_mpi
@pytest.mark.slow
def test_what_no_process_begins_with_is_said_once(place: Path) -> None:
    code, _, err = command_of_two(["train", "none.mir", "--data=train.npz"])
    assert code == 1 and err.count("none.mir: error: cannot read the file") == 1
    code, _, err = command_of_two([*COMMON[:3], "--batch=15"])
    assert code == 1 and "error: 2 processes cannot share a batch of 15 evenly" in err
    assert command([*COMMON, "--steps=1", "--loss-scale=1024", "-o", "one.safetensors"]) == 0
    code, _, err = command_of_two([*COMMON, "--steps=2", "-o", "one.safetensors", "--resume"])
    assert code == 1 and err.count("the checkpoint is of a run with another") == 1


ALONE = """
from mdsl.cli.mpi import together
from mdsl.training.processes import world

processes = world()
with together(processes):
    if processes.rank == 1:
        1 / 0
    processes.gather(0)
"""


@needs_mpi
def test_ctrl_c_stops_both_and_keeps_a_checkpoint(place: Path) -> None:
    process = two(["-m", "mdsl", *COMMON, "--steps=10000000", "-o", "long.safetensors", "--mpi"])
    until = time.monotonic() + 60
    while not (place / "long.safetensors").exists() and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = finished(process)
    # mpiexec, which is interrupted too, may end before it has passed on what they say.
    assert code == 130 and ("go on with --resume" in err or not err), err
    assert "fc1_bias" in load_file(place / "long.safetensors")


RESIDUAL = """func.func @main(%x: tensor<1x3x8x8xf32>) -> tensor<1x5xf32> {
  %first = arith.constant dense<0.0> : tensor<8x3x3x3xf32>
  %second = arith.constant dense<0.0> : tensor<16x8x3x3xf32>
  %third = arith.constant dense<0.0> : tensor<16x4x3x3xf32>
  %side = arith.constant dense<0.0> : tensor<16x8x1x1xf32>
  %one8 = arith.constant dense<1.0> : tensor<8xf32>
  %zero8 = arith.constant dense<0.0> : tensor<8xf32>
  %one16 = arith.constant dense<1.0> : tensor<16xf32>
  %zero16 = arith.constant dense<0.0> : tensor<16xf32>
  %fc1_weight = arith.constant dense<0.0> : tensor<5x16xf32>
  %fc1_bias = arith.constant dense<0.0> : tensor<5xf32>
  %c1 = nn.conv2d %x, %first {pads = [1, 1, 1, 1]} : (tensor<1x3x8x8xf32>, tensor<8x3x3x3xf32>) -> tensor<1x8x8x8xf32>
  %n1 = nn.batch_norm %c1, %one8, %zero8, %zero8, %one8
      : (tensor<1x8x8x8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>) -> tensor<1x8x8x8xf32>
  %r1 = nn.relu %n1 : (tensor<1x8x8x8xf32>) -> tensor<1x8x8x8xf32>
  %c2 = nn.conv2d %r1, %second {pads = [1, 1, 1, 1], strides = [2, 2]}
      : (tensor<1x8x8x8xf32>, tensor<16x8x3x3xf32>) -> tensor<1x16x4x4xf32>
  %n2 = nn.batch_norm %c2, %one16, %zero16, %zero16, %one16
      : (tensor<1x16x4x4xf32>, tensor<16xf32>, tensor<16xf32>, tensor<16xf32>, tensor<16xf32>) -> tensor<1x16x4x4xf32>
  %r2 = nn.relu %n2 : (tensor<1x16x4x4xf32>) -> tensor<1x16x4x4xf32>
  %c3 = nn.conv2d %r2, %third {pads = [1, 1, 1, 1], groups = 4}
      : (tensor<1x16x4x4xf32>, tensor<16x4x3x3xf32>) -> tensor<1x16x4x4xf32>
  %n3 = nn.batch_norm %c3, %one16, %zero16, %zero16, %one16
      : (tensor<1x16x4x4xf32>, tensor<16xf32>, tensor<16xf32>, tensor<16xf32>, tensor<16xf32>) -> tensor<1x16x4x4xf32>
  %c4 = nn.conv2d %r1, %side {strides = [2, 2]}
      : (tensor<1x8x8x8xf32>, tensor<16x8x1x1xf32>) -> tensor<1x16x4x4xf32>
  %n4 = nn.batch_norm %c4, %one16, %zero16, %zero16, %one16
      : (tensor<1x16x4x4xf32>, tensor<16xf32>, tensor<16xf32>, tensor<16xf32>, tensor<16xf32>) -> tensor<1x16x4x4xf32>
  %s = nn.add %n3, %n4 : (tensor<1x16x4x4xf32>, tensor<1x16x4x4xf32>) -> tensor<1x16x4x4xf32>
  %r3 = nn.relu %s : (tensor<1x16x4x4xf32>) -> tensor<1x16x4x4xf32>
  %g = nn.global_avg_pool %r3 : (tensor<1x16x4x4xf32>) -> tensor<1x16x1x1xf32>
  %f = nn.flatten %g : (tensor<1x16x1x1xf32>) -> tensor<1x16xf32>
  %z = nn.linear %f, %fc1_weight, %fc1_bias : (tensor<1x16xf32>, tensor<5x16xf32>, tensor<5xf32>) -> tensor<1x5xf32>
  return %z : tensor<1x5xf32>
}"""
SHARED = """
import sys
import numpy as np
import mdsl
from mpi4py import MPI

engine, threads, steps, *names = sys.argv[1:]
data = dict(np.load("residual.npz"))
trainer = mdsl.Trainer("residual.mir", data, init="random", optimizer="sgd{momentum=0.9}", lr=0.01, batch=16, comm=MPI.COMM_WORLD,
                       engine=engine, threads=int(threads), train_mode="train-mode{unbiased=true}", local_statistics="local" in names)
losses = trainer.train(int(steps))
if not trainer.processes.rank:
    np.savez("shared.npz", losses=losses, **trainer.parameters)
"""


def residual(place: Path) -> dict[str, np.ndarray]:
    (place / "residual.mir").write_text(RESIDUAL)
    (place / "shared.py").write_text(SHARED)
    data = samples(CNN)
    np.savez(place / "residual.npz", **data)
    return data


@needs_mpi
@pytest.mark.parametrize(
    ("engine", "threads", "steps"),
    [
        ("vm", 1, 20),
        pytest.param("vm", 2, 20, marks=pytest.mark.slow),
        pytest.param("jit", 1, 20, marks=pytest.mark.slow),
        pytest.param("reference", 1, 3, marks=pytest.mark.slow),
    ],
)
def test_batch_normalisation_sees_the_whole_batch(place: Path, engine: str, threads: int, steps: int) -> None:
    """Means, variances and what their gradients add up are of both processes, in the forward part and in the backward part."""
    data = residual(place)
    code, _, err = finished(two(["shared.py", engine, str(threads), str(steps)]))
    assert code == 0, err
    alone = mdsl.Trainer(
        RESIDUAL, data, init="random", optimizer="sgd{momentum=0.9}", lr=0.01, batch=16,
        train_mode="train-mode{unbiased=true}",
    )  # fmt: skip
    losses, found = alone.train(steps), np.load(place / "shared.npz")
    np.testing.assert_allclose(found["losses"], losses, rtol=1e-5)
    for name, array in alone.parameters.items():
        np.testing.assert_allclose(
            found[name], array, rtol=1e-5, atol=1e-5 * np.abs(array).max(), err_msg=name
        )


@needs_mpi
def test_a_fault_in_one_share_is_found_by_all(place: Path) -> None:
    """A number in one process's share overflows, and those that the others are given with it: nobody waits for the one that
    has found it."""
    data = residual(place)
    order = mdsl.Trainer(RESIDUAL, data, init="random", batch=16).batches(1)
    data["x"][order[12]] = 1e38
    np.savez(place / "residual.npz", **data)
    code, _, err = finished(
        two(
            ["-m", "mdsl", "train", "residual.mir", "--data=residual.npz", "--batch=16", "--steps=5", "--mpi"]
        )
    )
    assert code == 1 and "step 2: %" in err and "of finite numbers" in err, err


@needs_mpi
@pytest.mark.slow
def test_statistics_of_each_share_if_asked_for(place: Path) -> None:
    data = residual(place)
    code, _, err = finished(two(["shared.py", "vm", "1", "1", "local"]))
    assert code == 0, err
    alone = mdsl.Trainer(RESIDUAL, data, init="random", optimizer="sgd", lr=0.0, batch=16)
    alone.train(1)
    found = np.load(place / "shared.npz")
    np.testing.assert_allclose(found["n1_mean"], alone.parameters["n1_mean"], rtol=1e-5, atol=1e-6)
    assert 0 < np.abs(found["n1_variance"] - alone.parameters["n1_variance"]).max() < 0.1


class Third:
    """A communicator, as far as no process speaks."""

    def Get_rank(self) -> int:
        return 2

    def Get_size(self) -> int:
        return 3


def test_shares_are_the_whole() -> None:
    np.testing.assert_array_equal(Processes(Third()).share(np.arange(12)), [8, 9, 10, 11])
    np.testing.assert_array_equal(Processes().share(np.arange(12)), np.arange(12))


def test_without_mpi4py(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert command([*COMMON, "--mpi"]) == 1
    assert "error: --mpi needs mpi4py and an MPI library: pip install 'mdsl[mpi]'" in capsys.readouterr().err
