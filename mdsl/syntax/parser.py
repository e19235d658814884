"""Text -> IR: the module that a text or a file describes, or all its errors."""

from __future__ import annotations

from pathlib import Path

from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FunctionLike
from mdsl.errors import MdslError, Source, SyntaxError_
from mdsl.ir.errors import VerifyError
from mdsl.ir.verifier import verify
from mdsl.support.collector import collector_paused
from mdsl.syntax.diagnosis import errors_of
from mdsl.syntax.grammar import TooDeepError, parse_tree, too_deep
from mdsl.syntax.operations import Parser
from mdsl.syntax.resources import Resources


def parse(text: str, name: str = "<text>", folder: Path | None = None) -> ModuleOp:
    """The module that `text` describes; a text without `module` is one module's content.

    `name` stands in messages and locations. `dense_resource` data is looked for in the text's own
    resource section, then in the file of weights in `folder` that belongs to `name` (`weights_path`). Raises MdslError,
    with all errors of the text in `errors`.
    """
    source = Source(name, text)
    parser = Parser(source, Resources(source, folder))
    with collector_paused():
        try:
            module = parser.file(parse_tree(source))
            verify(module)
            _name_args(module)
        except TooDeepError:
            raise
        except (SyntaxError_, VerifyError) as error:
            raise _every(parser.located(error), source, folder) from None
        except RecursionError:
            raise too_deep(source) from None
    return module


def _every(first: SyntaxError_, source: Source, folder: Path | None) -> SyntaxError_:
    """All errors of a text, of which `first` ended its reading. Only now the text is read with recovery, so that a
    right one pays nothing for it."""
    try:
        return errors_of(source, Resources(source, folder)) or first
    except (TooDeepError, RecursionError):
        return first


def _name_args(module: ModuleOp) -> None:
    for op in module.body.ops:
        if isinstance(op, FunctionLike):
            op.name_args()
        elif isinstance(op, ModuleOp):
            _name_args(op)


def parse_file(path: Path) -> ModuleOp:
    """Reads and parses a `.mir` file. Raises MdslError, also for a file that cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise MdslError(f"{path}: error: cannot read the file: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise MdslError(f"{path}: error: not a text file (byte {error.start} is not UTF-8)") from None
    return parse(text, str(path), path.parent)
