"""Recognise the handwritten digits of digits.npz with a network of this folder.

    python recognise.py [--network cnn|mlp] [--engine vm|jit|reference] [--count N]

Prints some digits with the network's answers and the truth, then the accuracy and the latency of one digit.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import mdsl

HERE = Path(__file__).resolve().parent
INPUT_SHAPES = {"cnn": (1, 1, 28, 28), "mlp": (1, 784)}
SHOWN = 6  # digits side by side: 6 x 13 columns fit a terminal of 80


def picture(image: NDArray[np.uint8]) -> list[str]:
    """The digit (28, 28) as 7 lines of 13 characters, each of them 2 x 4 pixels."""
    ink = image[:, 1:27].reshape(14, 2, 13, 2).mean(axis=(1, 3)) > 80
    blocks = " ▀▄█" if can_print("▀▄█") else " '.#"
    cells = ink[::2] + 2 * ink[1::2]
    return ["".join(blocks[cell] for cell in row) for row in cells]


def can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return False
    return True


def show(images: NDArray[np.uint8], answers: list[int], labels: NDArray[np.uint8]) -> None:
    """Digits side by side, and under each what the network says it is and what it is."""
    for line in zip(*map(picture, images), strict=True):
        print("".join(line).rstrip())
    print("".join(f"{f'answer {answer}':^13}" for answer in answers).rstrip())
    print("".join(f"{f'truth {label}':^13}" for label in labels).rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description="Recognise handwritten digits.")
    parser.add_argument("--network", choices=tuple(INPUT_SHAPES), default="cnn")
    parser.add_argument("--engine", choices=("vm", "jit", "reference"), default="vm")
    parser.add_argument("--count", type=int, metavar="N", help="only the first N digits of the file (all)")
    args = parser.parse_args()
    if args.count is not None and args.count < 1:
        parser.error(f"--count: expected at least 1, got {args.count}")

    with np.load(HERE / "digits.npz") as sample:
        images, labels = sample["images"][: args.count], sample["labels"][: args.count]
    network = mdsl.compile(HERE / f"{args.network}.mir", engine=args.engine)

    answers: list[int] = []
    seconds: list[float] = []
    for image in images:
        pixels = (image / np.float32(255)).reshape(INPUT_SHAPES[args.network])
        start = time.perf_counter()
        probabilities = network(pixels)
        seconds.append(time.perf_counter() - start)
        answers.append(int(np.argmax(probabilities)))

    show(images[:SHOWN], answers[:SHOWN], labels[:SHOWN])
    accuracy = 100 * np.count_nonzero(np.array(answers) == labels) / len(answers)
    latency = 1e6 * statistics.median(seconds)
    print(f"accuracy: {accuracy:.1f} %")
    print(f"latency: {latency:.1f} us (median of {len(seconds)} digits, one at a time)")


if __name__ == "__main__":
    main()
