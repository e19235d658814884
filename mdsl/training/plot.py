"""A curve of losses as a picture. Needs matplotlib, of the extra `plot`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mdsl.errors import MdslError
from mdsl.support.files import replacing


def check_plot(path: Path) -> None:
    """To be called before the work starts. Raises MdslError where no such picture can be made."""
    if path.suffix.lower() not in (".svg", ".png", ".pdf"):
        raise MdslError(f"{path}: error: a plot is a .svg, .png or .pdf file")
    try:
        import matplotlib  # noqa: F401 # pyright: ignore
    except ImportError:
        raise MdslError("error: --plot needs matplotlib: pip install 'mdsl[plot]'") from None


def plot_losses(path: Path, losses: Sequence[float], scores: Sequence[tuple[int, float]] = ()) -> None:
    """Draws the loss of each step, its mean over neighbours, and (step, accuracy) on data that were held out."""
    from matplotlib.figure import Figure  # pyright: ignore

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps, window = np.arange(1, len(losses) + 1), max(1, len(losses) // 50)
    axes.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=0.8)
    means = np.convolve(losses, np.full(window, 1 / window), "valid")
    axes.plot(steps[window - 1 :], means, color="tab:blue", label="loss")
    axes.set(xlabel="step", ylabel="loss", yscale="log" if min(losses, default=0) > 0 else "linear")
    if scores:
        right = axes.twinx()
        right.plot(
            *zip(*((s, 100 * a) for s, a in scores), strict=True),
            "o-",
            color="tab:orange",
            markersize=3,
            label="held out",
        )
        right.set_ylabel("accuracy on held-out data, %")
    figure.legend(loc="upper center", ncols=2)
    with replacing(path) as file:
        figure.savefig(
            file, format=path.suffix[1:].lower(), metadata={"Date": None} if path.suffix == ".svg" else None
        )
