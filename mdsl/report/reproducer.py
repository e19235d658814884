"""`--crash-reproducer`: where a pass fails, the program before it and the pass, as one file that shows the failure again.

The pass stands where upstream's `mlir-opt` writes and looks for it, in the file's metadata:

    {-#
      external_resources: {
        mlir_reproducer: {
          pipeline: "builtin.module(tile{sizes=[4,16]})",
          verify_each: true
        },
        mdsl: {
          target: "avx2"
        }
      }
    #-}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager

from mdsl.compiler.pipeline import Hook, parse_pipeline
from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import MdslError, Source, SyntaxError_
from mdsl.ir.attributes import quote
from mdsl.passes.base import Pass
from mdsl.support.escapes import one_line
from mdsl.syntax.strings import unquote
from mdsl.target.target import Target


class Reproducer(Hook):
    """Hands the program before a pass that fails, and the pass, to `write`, whatever the failure is."""

    def __init__(self, write: Callable[[ModuleOp, Pass], None]) -> None:
        self.write = write

    @contextmanager
    def around(self, module: ModuleOp, step: Pass) -> Generator[None, None, None]:
        before = module.clone()
        try:
            yield
        except Exception:
            self.write(before, step)
            raise


def metadata(step: Pass, target: Target) -> str:
    """The section of a file that says what to run on it, and for which target."""
    return (
        "\n{-#\n  external_resources: {\n    mlir_reproducer: {\n"
        f"      pipeline: {quote(f'builtin.module({step})')},\n      verify_each: true\n    }},\n"
        f"    mdsl: {{\n      target: {quote(target.name)}\n    }}\n  }}\n#-}}\n"
    )


_STRING = r'("[^"\\\n]*(?:\\.[^"\\\n]*)*")'


def read_metadata(text: str, name: str) -> tuple[list[Pass], str | None]:
    """The passes that the section of a reproducer names, and the target, if it does. Raises MdslError."""
    section = text.rpartition("mlir_reproducer:")[2] if "mlir_reproducer:" in text else ""
    try:
        wanted, target = _string(r"\bpipeline:", section), _string(r"\bmdsl:\s*\{\s*target:", section)
    except ValueError as error:
        raise MdslError(f"{one_line(name)}: error: not a reproducer: {error}") from None
    pipeline = re.fullmatch(r"builtin\.module\((.*)\)", wanted) if wanted else None
    if pipeline is None:
        raise MdslError(
            f'{one_line(name)}: error: not a reproducer: no {{-# ... mlir_reproducer: {{ pipeline: "builtin.module(...)" }} ... #-}}'
        )
    try:
        return parse_pipeline(pipeline[1], name), target
    except SyntaxError_ as error:  # its place is in the string
        before = re.split(rf"\bpipeline:\s*(?={_STRING})", section, maxsplit=1)[0]
        quoted = text.index('"', len(text) - len(section) + len(before))
        begin = quoted + len('"builtin.module(')
        raise SyntaxError_(error.message, Source(name, text), begin + error.column - 1) from None


def _string(before: str, section: str) -> str | None:
    """The string that follows the pattern `before`. Raises ValueError for one with a wrong escape."""
    found = re.search(rf"{before}\s*{_STRING}", section)
    return unquote(found[1]) if found else None
