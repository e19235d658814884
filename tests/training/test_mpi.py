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


STATISTICS = """
import sys
import numpy as np
import mdsl
from mpi4py import MPI

data = dict(np.load("cnn.npz"))
trainer = mdsl.Trainer("cnn.mir", data, init="random", optimizer="sgd", lr=0.0, batch=16, comm=MPI.COMM_WORLD,
                       local_statistics=True)
trainer.train(1)
mean, variance = (trainer.parameters[f"norm1_{n}"] for n in ("mean", "variance"))
found = trainer.processes.gather([*mean, *variance])
if not trainer.processes.rank:
    print(found[0] == found[1], *found[0])
"""


@needs_mpi
@pytest.mark.slow
def test_running_statistics_are_those_of_both(place: Path) -> None:
    """The mean is that of the batch, the variance that of the shares; both processes have the same."""
    data = samples(CNN)
    (place / "cnn.mir").write_text(CNN)
    np.savez(place / "cnn.npz", **data)
    (place / "run.py").write_text(STATISTICS)
    code, out, err = finished(two(["run.py"]))
    assert code == 0, err
    same, *numbers = out.split()
    assert same == "True"
    alone = mdsl.Trainer(CNN, data, init="random", optimizer="sgd", lr=0.0, batch=16)
    alone.train(1)
    mean, variance = np.array(numbers, np.float32).reshape(2, 8)
    np.testing.assert_allclose(mean, alone.parameters["norm1_mean"], rtol=1e-5, atol=1e-6)
    assert 0 < np.abs(variance - alone.parameters["norm1_variance"]).max() < 0.1


class Third:
    """A communicator, as far as no process speaks."""

    def Get_rank(self) -> int:
        return 2

    def Get_size(self) -> int:
        return 3


def test_statistics_of_a_share_are_not_taken_for_those_of_a_batch() -> None:
    """A network that looks at the whole batch is refused where a process has a third of it, at the layer; one that does not
    is taken, and that of one process alone."""

    def trainer(network: str, comm: object, **options: bool) -> mdsl.Trainer:
        return mdsl.Trainer(network, samples(network), init="random", batch=12, comm=comm, **options)

    with pytest.raises(
        mdsl.MdslError, match=r":\d+:\d+: error: .* uses the statistics of a batch.*\n +%norm1,"
    ):
        trainer(CNN, Third())
    trainer(CNN, Third(), local_statistics=True)
    trainer(CNN, None)
    trainer(DROPOUT, Third())


def test_shares_are_the_whole() -> None:
    np.testing.assert_array_equal(Processes(Third()).share(np.arange(12)), [8, 9, 10, 11])
    np.testing.assert_array_equal(Processes().share(np.arange(12)), np.arange(12))


def test_without_mpi4py(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert command([*COMMON, "--mpi"]) == 1
    assert "error: --mpi needs mpi4py and an MPI library: pip install 'mdsl[mpi]'" in capsys.readouterr().err
