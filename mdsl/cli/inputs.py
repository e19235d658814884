"""Parsing of `--input`: `image=x.npy`, `x.npz`, `1x784xf32=0.5`, `image=1x784xf32=random`, `image=0.5`."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from mdsl.bytecode.module import DTYPES, TensorSpec
from mdsl.cli.files import read_numpy
from mdsl.compiler.entry import Spec, describe, example, random_array
from mdsl.errors import MdslError, nearest
from mdsl.runtime.signature import fits

_LITERAL = re.compile(r"(?:([^=]+)=)?((?:\d+x)*(?:f16|bf16|f32|f64|i1|i8|i16|i32|i64|index))=(.*)")
_FILE = re.compile(r"(?:([^=]+)=)?(.*\.np[yz])")
_PLAIN = re.compile(r"(?:([^=]+)=)?(random|true|false|[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|inf|nan))")
_SEVERAL = re.compile(r",[^,=]+=")


def read_inputs(texts: Sequence[str], specs: Sequence[Spec], seed: int = 0) -> dict[str, np.ndarray]:
    """The arrays that `--input` options give, by name. Raises MdslError, OSError."""
    generator = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    for text in texts:
        for name, array in _read(text, specs, generator).items():
            if name in found:
                raise MdslError(f"error: --input {text}: input '{name}' was given twice")
            found[name] = array
    return found


def _read(text: str, specs: Sequence[Spec], generator: np.random.Generator) -> dict[str, np.ndarray]:
    literal, file, plain = _LITERAL.fullmatch(text), _FILE.fullmatch(text), _PLAIN.fullmatch(text)
    if literal:
        spec = _spec(text, literal[1], specs)
        sizes = re.findall(r"\d+(?=x)", literal[2])
        dtype = re.sub(r"^(\d+x)*", "", literal[2])
        filled = TensorSpec(spec.name, dtype, tuple(map(int, sizes)))
        if DTYPES[dtype] != DTYPES[spec.dtype] or not fits(spec, filled.shape):
            raise MdslError(
                f"error: --input {text}: input '{spec.name}' is {describe(spec)}, not {literal[2]}"
            )
        return {spec.name: _filled(text, filled, literal[3], generator)}
    if plain:
        spec = _spec(text, plain[1], specs)
        if not isinstance(spec, TensorSpec):
            raise MdslError(
                f"error: --input {text}: input '{spec.name}' is {describe(spec)}, whose shape is yet to be given, as in "
                f"{example(spec)}"
            )
        return {spec.name: _filled(text, spec, plain[2], generator)}
    if file is None:
        raise MdslError(
            f"error: --input {text}: expected NAME=x.npy, x.npz, 1x784xf32=0.5, 1x784xf32=random, 0.5 or random{_again(text)}"
        )
    arrays = _load(text, file[2])
    if file[1] is None and isinstance(arrays, dict) and len(arrays) > 1:
        return {_spec(text, name, specs).name: array for name, array in arrays.items()}
    spec = _spec(text, file[1], specs)
    if isinstance(arrays, dict):
        if len(arrays) != 1 and spec.name not in arrays:
            raise MdslError(
                f"error: --input {text}: no array '{spec.name}' in the file (it has {', '.join(arrays)})"
            )
        array = arrays[spec.name] if spec.name in arrays else next(iter(arrays.values()))
    else:
        array = arrays
    return {spec.name: _as_bfloat16(array, spec)}


def _spec(text: str, name: str | None, specs: Sequence[Spec]) -> Spec:
    """The input that is meant."""
    names = [spec.name for spec in specs]
    if name is None and len(specs) == 1:
        return specs[0]
    if name is None:
        raise MdslError(
            f"error: --input {text}: say which input it is (NAME=...): {', '.join(names) or 'there is none'}"
        )
    if name not in names:
        raise MdslError(
            f"error: --input {text}: no input '{name}'{nearest(name, names)} (inputs: {', '.join(names)})"
        )
    return specs[names.index(name)]


def _filled(text: str, spec: TensorSpec, value: str, generator: np.random.Generator) -> np.ndarray:
    if value == "random":
        return random_array(spec, generator)
    words = {"true": 1, "false": 0}
    try:
        number = words[value] if value in words else float(value) if "f" in spec.dtype else int(value)
        return np.full(spec.shape, number, DTYPES[spec.dtype])
    except (ValueError, OverflowError):
        raise MdslError(
            f"error: --input {text}: '{value}' is neither 'random' nor a number of type {spec.dtype}{_again(text)}"
        ) from None


def _again(text: str) -> str:
    """What to say of a text that seems to hold several inputs."""
    return "; for several inputs write --input several times" if _SEVERAL.search(text) else ""


def _load(text: str, path: str) -> np.ndarray | dict[str, np.ndarray]:
    try:
        return read_numpy(path, f"error: --input {text}: not a readable NumPy file")
    except FileNotFoundError:
        if _SEVERAL.search(text):
            raise MdslError(f"error: --input {text}: there is no file '{path}'{_again(text)}") from None
        raise


def _as_bfloat16(array: np.ndarray, spec: Spec) -> np.ndarray:
    """NumPy's files know bf16 as two bytes without meaning."""
    plain = spec.dtype == "bf16" and array.dtype.kind == "V" and array.dtype.itemsize == 2
    return array.view(DTYPES["bf16"]) if plain else array
