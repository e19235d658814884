"""Options of all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mdsl.codegen import native
from mdsl.target.target import Target
from tests.guarding import guard


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="write expected files anew instead of comparing")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> bool:
    """True if expected files are to be written."""
    return bool(request.config.getoption("--golden"))


@pytest.fixture(autouse=True)
def guard_pages(request: pytest.FixtureRequest) -> Iterator[None]:
    """An access beyond an argument, a constant or the arena ends the test, and names it: pytest's faulthandler does.
    A module that counts instructions or measures memory says `UNGUARDED = True`."""
    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "UNGUARDED", False):
            guard(patch)
        yield


@pytest.fixture(autouse=True, scope="session")
def skip_where_code_is_executed() -> Iterator[None]:
    """The host may be taken for one whose code this processor cannot execute (MDSL_HOST): a test ends as skipped where
    it would load such code."""
    host, check = Target.host(), native.check_executable
    runs = host.runs_here

    def skip(target: Target, *to: str) -> None:
        if target == host and not runs:
            pytest.skip(f"this processor cannot execute code for {host.name}")
        check(target, *to)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "check_executable", skip)
        yield


@pytest.fixture
def executes() -> None:
    """For tests that execute code in another process."""
    native.check_executable(Target.host())
