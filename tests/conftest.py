"""Options of all tests."""

from __future__ import annotations

import pytest

from mdsl.codegen import native
from mdsl.target.target import Target


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="write expected files anew instead of comparing")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> bool:
    """True if expected files are to be written."""
    return bool(request.config.getoption("--golden"))


@pytest.fixture(autouse=True)
def skip_where_code_is_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host may be taken for one whose code this processor cannot execute (MDSL_HOST): a test ends as skipped where
    it would load such code."""
    host = Target.host()
    if host.runs_here:
        return
    check = native.check_executable

    def skip(target: Target, *to: str) -> None:
        if target == host:
            pytest.skip(f"this processor cannot execute code for {host.name}")
        check(target, *to)

    monkeypatch.setattr(native, "check_executable", skip)


@pytest.fixture
def executes(skip_where_code_is_executed: None) -> None:
    """For tests that execute code in another process."""
    native.check_executable(Target.host())
