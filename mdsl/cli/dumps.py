"""`--dump-ir-dir`: programs as files that can be read again, weights that did not change written once."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mdsl.dialects.builtin import ModuleOp
    from mdsl.ir.attributes import Resource
    from mdsl.report.dumps import Folder


def dump_folder(folder: Path, program: str) -> Folder:
    """The hook that writes into `folder`, which is made. Raises OSError, MdslError where the file `program` may be lost."""
    from mdsl.cli.files import write_text
    from mdsl.errors import MdslError
    from mdsl.report.dumps import Folder

    path = Path(program).resolve()
    if path.parent == folder.resolve() and re.match(r"\d\d", path.name):
        raise MdslError(f"{folder}: error: the program is itself a dump in this folder, and would be lost")
    return Folder(folder, _Programs().write, write_text)


class _Programs:
    """Writes one program after another. A link takes the place of weights that are those of the one before."""

    def __init__(self) -> None:
        self.weights: Path | None = None
        self.resources: dict[str, Resource] = {}

    def write(self, module: ModuleOp, path: Path) -> None:
        from mdsl.cli.files import write_text, write_weights
        from mdsl.syntax.printer import print_module
        from mdsl.syntax.resources import used, weights_path

        resources = used(module)
        place = weights_path(path)
        with suppress(FileNotFoundError):
            place.unlink()
        if self.weights is not None and all(self.resources.get(n) is r for n, r in resources.items()):
            with suppress(OSError):  # a file system without links
                os.symlink(self.weights.name, place)
        if resources and not place.exists():
            write_weights(place, resources, keep=None)
            self.weights, self.resources = place, resources
        write_text(print_module(module), path)
