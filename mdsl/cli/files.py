"""Reading programs and writing results."""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mdsl.cli.terminal import styled
from mdsl.support.escapes import one_line
from mdsl.support.files import check_writable, is_stream, replacing

if TYPE_CHECKING:
    import numpy as np

    from mdsl.compiler.settings import Settings
    from mdsl.dialects.builtin import ModuleOp
    from mdsl.frontends.onnx import Source
    from mdsl.ir.attributes import Resource


def read_program(path: str) -> ModuleOp:
    """The module in the `.mir` or `.onnx` file `path`, to be read and altered: the parameters of a model are marked; `-` is stdin, .mir with
    its weights in the text. Raises MdslError, OSError."""
    from mdsl.compiler.reading import module_of

    return module_of(read_source(path), {}, weights=True)[0]


def read_bound(path: str, bind: Mapping[str, Any]) -> tuple[ModuleOp, Mapping[str, int]]:
    """The module in such a file as it is run, with what `bind` has of it, and the sizes in that which are yet to be bound. Raises MdslError,
    OSError."""
    from mdsl.compiler.reading import module_of

    return module_of(read_source(path), bind)


def read_sized(path: str, settings: Settings) -> tuple[ModuleOp, Settings]:
    """The same with all that `settings` bind, and the settings without what they bind. Raises MdslError, OSError."""
    from mdsl.compiler.driver import bind_dims

    module, sizes = read_bound(path, settings.bind)
    return bind_dims(module, sizes), replace(settings, bind={})


def read_source(path: str) -> ModuleOp | Source:
    """The same, or a model that is yet to be imported. Raises MdslError, OSError."""
    if path != "-":
        from mdsl.compiler.reading import read

        return read(Path(path))
    from mdsl.errors import MdslError
    from mdsl.syntax.parser import parse

    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MdslError(f"<stdin>: error: not a text file (byte {error.start} is not UTF-8)") from None
    return parse(text, "<stdin>")


def read_numpy(path: str | Path, refusal: str) -> np.ndarray | dict[str, np.ndarray]:
    """The array of an .npy file, the arrays of an .npz file by name. Raises OSError, and MdslError that begins with
    `refusal` for a file that is neither."""
    import numpy as np

    from mdsl.errors import MdslError

    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return loaded
        with loaded:
            return dict(loaded)
    except OSError:
        raise
    except Exception as error:  # NumPy lets through what its unpackers and its parser of headers raise
        raise MdslError(f"{refusal}: {error}") from None


def check_output(output: Path | None, source: str, *, text: bool = False) -> None:
    """To be called before the work starts. Raises MdslError for an output that would destroy what programs are made
    of: the file `source` that is read, unless both it and the output are a program's `text`, or weights; also for a
    folder. Raises OSError for what cannot be written."""
    if output is None or str(output) == "-":
        return
    from mdsl.errors import MdslError
    from mdsl.frontends import SUFFIXES

    rewritten = text and not source.lower().endswith((".mbc", *SUFFIXES))
    if source != "-" and not rewritten and _same(output, Path(source)):
        raise MdslError(f"{output}: error: the output is the input file, which would be lost")
    if output.is_dir():
        raise MdslError(f"{output}: error: cannot write: it is a folder")
    if output.suffix.lower() == ".safetensors":
        raise MdslError(f"{output}: error: a .safetensors file holds weights: give the output another name")
    check_writable(output)


def write_text(text: str, output: Path | None) -> None:
    """Writes to the file, or to stdout."""
    if output is None or str(output) == "-":
        sys.stdout.write(text)
        return
    with writing(output) as file:
        file.write(text.encode())


@contextmanager
def writing(output: Path) -> Generator[BinaryIO, None, None]:
    """The file to write bytes to, `-` is stdout. Raises OSError, and MdslError where that is a terminal."""
    sys.stdout.flush()  # what is said before stands before it where both are one
    if str(output) != "-":
        with replacing(output) as file:
            yield file
        return
    if sys.stdout.isatty():
        from mdsl.errors import MdslError

        raise MdslError("error: -o -: this is no text for a terminal")
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


def is_passed_on(output: Path) -> bool:
    """True for what cannot be replaced by something better later: stdout, a pipe, a device."""
    return str(output) == "-" or is_stream(output)


def write_program(
    module: ModuleOp,
    output: Path | None,
    source: str,
    *,
    generic: bool = False,
    history: bool = False,
    metadata: str = "",
) -> list[Path]:
    """Writes the module's text, with `metadata` behind it, to `output` or stdout, and its weights so that the text
    finds them. Returns the files that were written. Raises OSError.

    A file gets a `.safetensors` beside it, unless it lies beside the one that it was read from. On stdout, or
    in a pipe, data that lies in no file follows the text as a resource section; a terminal is spared it. With `history`
    each op has a comment on where it comes from.
    """
    from mdsl.syntax.printer import print_module
    from mdsl.syntax.resources import section_parts, used, weights_path

    resources = used(module)
    text = print_module(module, generic=generic, history=history)
    inline = [name for name, resource in resources.items() if not resource.external]
    if output is None or str(output) == "-":
        terminal = sys.stdout.isatty()
        if inline and terminal:
            note(f"the data of {len(inline)} resources is not shown; -o writes it")
        sys.stdout.write(text)
        if not terminal:
            styled(sys.stdout).writelines(section_parts(resources))
        sys.stdout.write(metadata)
        return []
    if is_stream(output):
        with writing(output) as file:
            file.writelines(part.encode() for part in chain((text,), section_parts(resources), (metadata,)))
        return []
    weights, old = weights_path(output), weights_path(Path(source))
    written = [output]
    with replacing(output) as file:
        file.write((text + metadata).encode())
        if resources and (inline or not _same(weights, old)):  # both files appear in one moment
            write_weights(weights, resources, keep=old if _same(weights, old) else None)
            written.append(weights)
    return written


def _same(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and a.samefile(b)


_SAFETENSORS = {
    "f64": "F64", "f32": "F32", "f16": "F16", "bf16": "BF16",
    "i64": "I64", "i32": "I32", "i16": "I16", "i8": "I8", "i1": "BOOL",
}  # fmt: skip


def write_weights(path: Path, resources: dict[str, Resource], keep: Path | None) -> None:
    """Writes a `.safetensors` file with the resources and, beneath them, the tensors of `keep`."""
    import json

    import numpy as np

    from mdsl.ir.types import type_of_dtype
    from mdsl.syntax.resources import load_weights

    arrays = {**(load_weights(keep) if keep else {}), **{name: r.array for name, r in resources.items()}}
    header: dict[str, object] = {}
    offset = 0
    for name, array in arrays.items():
        dtype = _SAFETENSORS[str(type_of_dtype(array.dtype))]
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 64)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def note(text: str) -> None:
    """Tells the user something beside the result."""
    print(f"note: {one_line(text)}", file=sys.stderr)
