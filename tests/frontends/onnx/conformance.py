"""ONNX's own backend tests, run through the VM: which there are, and what becomes of one.

Node tests pass shapes, axes and pads as inputs of the graph, which the first call tells the importer. If a case fails
nevertheless, it is tried with its small integer inputs as constants, and the table says so.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

import mdsl

TABLE = Path(__file__).parent / "conformance.txt"
KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted")

TYPES = {
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8,
    TensorProto.INT16, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL,
}  # fmt: skip
"""Types that mdsl has."""


@cache
def cases() -> dict[str, Any]:
    """Every test whose inputs and outputs are tensors of types that mdsl has, by `kind/name`."""
    from onnx.backend.test.loader import load_model_tests

    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in KINDS:
            for case in load_model_tests(kind=kind):
                if case.model is None:
                    case = replace(case, model=onnx.load(Path(case.model_dir) / "model.onnx"))
                ends = [v.type for v in (*case.model.graph.input, *case.model.graph.output)]
                if all(t.HasField("tensor_type") and t.tensor_type.elem_type in TYPES for t in ends):
                    found[f"{kind}/{case.name.removeprefix('test_')}"] = case
    return found


def outcome(name: str) -> str:
    """`pass`, `pass: with what made constant`, or `fail: why`."""
    case = cases()[name]
    reason = ""
    for frozen in _attempts(case.model):
        try:
            _run(case, frozen)
        except mdsl.MdslError as error:  # something may have to be known at import
            if "internal failure" in str(error):
                return f"fail: {_reason(error)}"
            reason = reason or _reason(error)
            continue
        except (Exception, RecursionError) as error:  # whatever it is, it is the case's outcome
            return f"fail: {_reason(error)}"
        return f"pass: {', '.join(frozen)} constant" if frozen else "pass"
    return f"fail: {reason}"


def _attempts(model: ModelProto) -> Iterator[list[str]]:
    """Sets of inputs to make constants: none, then the small integer ones, then all small ones."""
    yield []
    inputs = _inputs(model)
    small = [i for i in inputs if len(i.type.tensor_type.shape.dim) <= 1]
    integers = [
        i
        for i in small
        if i.type.tensor_type.elem_type in (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)
    ]
    tried: list[list[str]] = [[]]
    for chosen in (
        [i for i in integers if i is not inputs[0]],
        integers,
        [i for i in small if i is not inputs[0]],
        small,
        [i for i in inputs if i.type.tensor_type.elem_type in (TensorProto.INT64, TensorProto.BOOL)],
    ):
        names = [i.name for i in chosen]
        if names not in tried:
            tried.append(names)
            yield names


def _inputs(model: ModelProto) -> list[onnx.ValueInfoProto]:
    given = {t.name for t in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in given]


def _run(case: Any, frozen: Sequence[str]) -> None:
    """Runs a case on each of its data sets; raises if something is not as expected."""
    for inputs, outputs in _data(case):
        model = case.model
        if frozen:
            model = ModelProto()
            model.CopyFrom(case.model)
        names = [i.name for i in _inputs(case.model)]
        feeds = dict(zip(names, inputs, strict=False))
        for name in frozen:
            model.graph.initializer.append(numpy_helper.from_array(feeds.pop(name), name))
        executable = mdsl.compile(model)
        results = executable(**{n: np.asarray(a, order="C") for n, a in feeds.items()})
        _compare(results if isinstance(results, tuple) else (results,), outputs, case.rtol, case.atol)


def _data(case: Any) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    if case.data_sets is not None:
        for inputs, outputs in case.data_sets:
            yield list(map(_array, inputs)), list(map(_array, outputs))
        return
    for folder in sorted(Path(case.model_dir).glob("test_data_set*")):
        yield _stored(folder, "input"), _stored(folder, "output")


def _stored(folder: Path, kind: str) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    for number in range(len(list(folder.glob(f"{kind}_*.pb")))):
        tensor = TensorProto()
        tensor.ParseFromString((folder / f"{kind}_{number}.pb").read_bytes())
        found.append(numpy_helper.to_array(tensor))
    return found


def _array(value: Any) -> np.ndarray:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def _compare(results: Sequence[np.ndarray], wanted: Sequence[np.ndarray], rtol: float, atol: float) -> None:
    assert len(results) == len(wanted), f"{len(results)} outputs, not {len(wanted)}"
    for number, (got, want) in enumerate(zip(results, wanted, strict=True)):
        assert got.dtype == want.dtype, f"output {number} is {got.dtype}, not {want.dtype}"
        assert got.shape == want.shape, f"output {number} has shape {list(got.shape)}, not {list(want.shape)}"
        if (
            want.dtype.itemsize == 2 and want.dtype.kind != "i"
        ):  # 16-bit floats are coarser than the tests' rtol
            rtol = max(rtol, float(ml_dtypes.finfo(want.dtype).eps))
            got, want = got.astype(np.float32), want.astype(np.float32)
        if not np.allclose(got, want, rtol, atol, equal_nan=True):
            raise AssertionError(f"output {number} has other numbers")


def _reason(error: BaseException) -> str:
    """The first line of the message, without what names the model and without the node's attributes."""
    lines = str(error).strip().splitlines() or [""]
    text = re.sub(r"^.*?error: ", "", lines[0])
    text = re.sub(r"^node '[^']*' ", "", text)
    text = re.sub(r"^\((\S+) with .*?\): ", r"(\1): ", text)
    if not isinstance(error, mdsl.MdslError | AssertionError):
        text = f"{type(error).__name__}: {text}"
    return text[:160].strip()


def read_table() -> dict[str, str]:
    """The outcomes that are expected."""
    found: dict[str, str] = {}
    for line in TABLE.read_text().splitlines() if TABLE.exists() else []:
        if line and not line.startswith("#"):
            name, _, result = line.partition("  ")
            found[name] = result.strip()
    return found


def write_table(outcomes: dict[str, str]) -> None:
    """Writes the table, with its totals."""
    passed = sum(o.startswith("pass") for o in outcomes.values())
    nodes = sum(o.startswith("pass") for n, o in outcomes.items() if n.startswith("node/"))
    width = max(map(len, outcomes)) + 2
    head = [
        f"# Tests of the onnx package {onnx.__version__} for types that mdsl has: {passed} of {len(outcomes)} pass ({nodes} node tests).",
        "# Renew with: pytest --golden tests/frontends/onnx/test_conformance.py",
    ]
    lines = [f"{name:{width}}{result}" for name, result in sorted(outcomes.items())]
    TABLE.write_text("\n".join([*head, *lines]) + "\n")
