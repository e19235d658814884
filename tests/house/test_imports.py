"""Files import each other in no circle, not within functions either, and what the disk cache keeps is keyed by all that
made it; `make check` holds the rooms to their order."""

from __future__ import annotations

from functools import cache
from graphlib import CycleError, TopologicalSorter

import grimp
import pytest

from mdsl.codegen import kernels
from mdsl.compiler import fingerprint
from mdsl.vm import interpreter


@cache
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("mdsl", exclude_type_checking_imports=True, cache_dir=None)


def test_no_circle_of_files() -> None:
    direct = {module: imports().find_modules_directly_imported_by(module) for module in imports().modules}
    try:
        TopologicalSorter(direct).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize(
    ("module", "digested", "apart"),
    [
        ("mdsl.vm.interpreter", interpreter.ROOMS, set()),
        ("mdsl.vm.prepared", interpreter.ROOMS, set()),
        ("mdsl.codegen.kernels", kernels.ROOMS, {"errors"}),
        # `vm` only times what passes choose between.
        ("mdsl.compiler.driver", fingerprint._ROOMS, {"vm"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_kept_follows_from_the_rooms_in_its_key(
    module: str, digested: tuple[str, ...], apart: set[str]
) -> None:
    """Code that moves to another room takes its place in the digest along."""
    reached = {name.split(".")[1] for name in imports().find_upstream_modules(module) if "." in name}
    rooms = {name.removesuffix(".py") for name in digested}
    assert reached - rooms == {"support", *apart}
