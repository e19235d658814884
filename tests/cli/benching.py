"""`mdsl bench` as tests run it."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from mdsl.cli import app


def bench(*args: object) -> Result:
    result = CliRunner().invoke(app, ["bench", *map(str, args)])
    assert result.exit_code == 0, result.exception
    return result
