"""`mdsl train`: a network learns from data."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from mdsl.cli.files import check_output, is_passed_on, note, read_numpy, read_program, write_program
from mdsl.cli.load import Engine, Threads, default_output
from mdsl.cli.mpi import agreeing, together
from mdsl.cli.progress import progress
from mdsl.cli.settings import Winograd

if TYPE_CHECKING:
    import numpy as np

    from mdsl.training.trainer import Trainer


def train(
    program: Annotated[
        str, typer.Argument(help="A .mir file with a network, or an .onnx file.", metavar="FILE")
    ],
    data: Annotated[
        Path,
        typer.Option(help="An .npz file: an array for each input, and labels or target, sample by sample."),
    ],
    loss: Annotated[
        str,
        typer.Option(
            help="cross_entropy, mse, bce, or own where the network computes it; as pass loss takes it: 'cross_entropy{smoothing=0.1}'."
        ),
    ] = "cross_entropy",
    optimizer: Annotated[
        str,
        typer.Option(
            help="sgd, adam or adamw, with the pass's options: 'sgd{momentum=0.9}'; gradients are clipped by 'clip-gradients{norm=1},adam'."
        ),
    ] = "adam",
    lr: Annotated[float, typer.Option(help="The learning rate.")] = 1e-3,
    schedule: Annotated[str, typer.Option(help="constant, linear, cosine, or step.")] = "constant",
    warmup: Annotated[int, typer.Option(help="Steps over which the rate grows at first.", metavar="N")] = 0,
    decay_every: Annotated[
        int, typer.Option(help="Of schedule step: after how many steps.", metavar="N")
    ] = 1000,
    decay: Annotated[float, typer.Option(help="Of schedule step: times how much.")] = 0.1,
    steps: Annotated[
        int, typer.Option(help="How many steps in all, with those of a resumed run.", metavar="N")
    ] = 1000,
    batch: Annotated[int, typer.Option(help="Samples a step.", metavar="N")] = 64,
    valid: Annotated[Path | None, typer.Option(help="An .npz file with data to judge by.")] = None,
    valid_every: Annotated[
        int | None,
        typer.Option(help="Judge after each so many steps (an epoch), and at the end.", metavar="N"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="The trained weights (FILE's name with .trained.safetensors), or with .mir the network with its weights.",
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="A picture of the losses: .svg, .png or .pdf.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the checkpoint ends, if there is one.")
    ] = False,
    checkpoint_every: Annotated[
        int, typer.Option(help="Write the checkpoint after each so many steps.", metavar="N")
    ] = 500,
    loss_scale: Annotated[
        str, typer.Option(help="For networks of 16 bits, as pass loss-scale takes it: 1024, or dynamic.")
    ] = "",
    recompute: Annotated[
        str,
        typer.Option(
            help="Keep less for the gradients, as pass recompute does: bytes (64M), or a share (0.5).",
            metavar="BUDGET",
        ),
    ] = "",
    accumulate: Annotated[
        int,
        typer.Option(
            help="Compute each batch in so many parts, one after the other: less memory.", metavar="N"
        ),
    ] = 1,
    init: Annotated[str, typer.Option(help="keep: the network's weights; random: new ones.")] = "keep",
    freeze: Annotated[
        list[str] | None,
        typer.Option(help="A weight that stays as it is, or a pattern of such: 'encoder.*'.", metavar="NAME"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides all that is random.", metavar="N")] = 0,
    engine: Engine = "vm",
    threads: Threads = 1,
    winograd: Winograd = True,
    mpi: Annotated[
        bool,
        typer.Option("--mpi", help="Share each batch among the processes that mpiexec has started."),
    ] = False,
    local_statistics: Annotated[
        bool,
        typer.Option(
            "--local-statistics",
            help="With --mpi: batch normalisation uses the statistics of each process's share.",
        ),
    ] = False,
) -> None:
    """Train a network: gradients, optimiser and all in the VM. The checkpoint resumes to the bit."""
    from mdsl.errors import MdslError
    from mdsl.training.plot import check_plot, plot_losses
    from mdsl.training.processes import Fault, Processes, world
    from mdsl.training.trainer import Schedule, Trainer

    processes = world() if mpi else Processes()
    with together(processes):
        with agreeing(processes):
            place, checkpoint = _places(program, output)
            if steps < 1 or checkpoint_every < 1 or (valid_every is not None and valid_every < 1):
                raise MdslError("error: --steps, --checkpoint-every and --valid-every must be at least 1")
            if place is not None:
                check_output(place, program, text=True)
            if plot is not None:
                check_plot(plot)
            network = read_program(program) if program == "-" else Path(program)
            arrays, judged = _load(data), None if valid is None else _load(valid)
            rate = Schedule(lr, steps, schedule, warmup, decay_every, decay)
            with progress(f"compiling {program}"):
                trainer = Trainer(
                    network, arrays, loss=loss, optimizer=optimizer, lr=rate, batch=batch, seed=seed, init=init,
                    frozen=freeze or (), engine=engine, threads=threads, winograd=winograd,
                    comm=processes.comm,
                    loss_scale=loss_scale, recompute=recompute, accumulate=accumulate, local_statistics=local_statistics,
                )  # fmt: skip
            if not processes.rank:
                note(f"trains {trainer.trains}")
                if trainer.left_out:
                    note(_left_out(trainer.left_out))
            if resume and checkpoint.exists():
                trainer.resume(checkpoint)
                note(f"goes on after step {trainer.step} of {checkpoint}")
        if len(set(processes.gather(trainer.step))) > 1:
            raise Fault(f"{checkpoint}: error: not the same for all processes")
        scores: list[tuple[int, float]] = []
        every = valid_every or trainer.batches.per_epoch
        stopped = _go(trainer, steps, checkpoint, checkpoint_every, judged, every, scores)
        if plot is not None and trainer.losses and not processes.rank:
            plot_losses(plot, trainer.losses, scores)
        if stopped:
            note(f"stopped after step {trainer.step}; go on with --resume")
            raise typer.Exit(130)
        if place is not None and not processes.rank:
            write_program(trainer.trained(), place, program)


def _left_out(names: Sequence[str]) -> str:
    """What to say of parameters that PyTorch's exporter has not written."""
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return (
        f"PyTorch's exporter has not written {len(names)} of the network's parameters ({shown}), being 0 or merged into others, so these are "
        "not trained: torch.onnx.export(..., optimize=False) writes all"
    )


def _places(program: str, output: Path | None) -> tuple[Path | None, Path]:
    """Where the trained program goes, if it is wanted, and where the checkpoint. Raises MdslError."""
    from mdsl.errors import MdslError

    output = output or default_output(program, ".trained.safetensors")
    if output.suffix == ".safetensors":
        if is_passed_on(output):
            raise MdslError(f"{output}: error: a checkpoint is read again: it cannot go into a pipe")
        if output.with_suffix(".mir").exists():
            raise MdslError(
                f"{output}: error: these are the weights of {output.with_suffix('.mir')}, which a checkpoint would replace"
            )
        return None, output
    if output.suffix != ".mir":
        raise MdslError(
            f"{output}: error: expected a .safetensors file, or .mir for the network with its weights"
        )
    return output, output.with_suffix(".checkpoint.safetensors")


def _load(path: Path) -> dict[str, np.ndarray]:
    from mdsl.errors import MdslError

    refusal = f"{path}: error: not a readable .npz file"
    found = read_numpy(path, refusal)
    if not isinstance(found, dict):
        raise MdslError(f"{refusal}: it holds one array, without a name")
    return found


def _go(
    trainer: Trainer,
    steps: int,
    checkpoint: Path,
    every: int,
    judged: dict[str, np.ndarray] | None,
    judge_every: int,
    scores: list[tuple[int, float]],
) -> bool:
    """Goes on to step number `steps`; True if it was stopped before. Says each second how far it is."""
    start = last = time.monotonic()
    first, shown = trainer.step, trainer.step
    with _asked_to_stop() as asked:
        for _ in trainer.run(steps, every):
            now, step = time.monotonic(), trainer.step
            stops = any(trainer.processes.gather(bool(asked)))
            is_last = step == steps or stops
            if trainer.processes.rank:  # the first process does the rest
                if stops:
                    return step < steps
                continue
            if now - last >= 1 or step - first == 1 or is_last:
                speed = (step - first) / max(now - start, 1e-9)
                typer.echo(_line(trainer, steps, shown, speed))
                last, shown = now, step
            if step % every == 0 or is_last:
                trainer.save(checkpoint)
            if judged is not None and (step % judge_every == 0 or step == steps):
                score = trainer.evaluate(judged)
                accuracy = "" if score.accuracy is None else f"  accuracy {100 * score.accuracy:.2f} %"
                typer.echo(f"held out: step {step}  loss {score.loss:.4f}{accuracy}")
                if score.accuracy is not None:
                    scores.append((step, score.accuracy))
            if stops:
                return step < steps
    return False


def _line(trainer: Trainer, steps: int, shown: int, speed: float) -> str:
    losses = trainer.losses[shown - trainer.step :] or trainer.losses[-1:]
    accuracy = "" if trainer.accuracy is None else f"  accuracy {100 * trainer.accuracy:.1f} %"
    return f"step {trainer.step}/{steps}  loss {sum(losses) / len(losses):.4f}{accuracy}  {speed:.1f} steps/s"


@contextmanager
def _asked_to_stop() -> Generator[list[int], None, None]:
    """A list that Ctrl-C puts something into: the step at work is finished. A second one ends the process."""
    asked: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
