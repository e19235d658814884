"""What each pass does to its examples: `tests/passes/<pass>/*.mir`, expected IR diffs in the sibling `.diff`.

The first line of an example is its command, `// RUN: mdsl opt --tile=4x16 --diff`. `make golden` writes the
expected files anew; read what changed before it is committed.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mdsl.cli import app
from mdsl.passes import PASSES

HERE = Path(__file__).parent
EXAMPLES = sorted(HERE.glob("*/*.mir"))
PREFIX = "// RUN: mdsl "


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_diff(path: Path, golden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Locations name the file as it was given: they must not depend on where the repository lies.
    monkeypatch.chdir(HERE)
    first = path.read_text().split("\n", 1)[0]
    assert first.startswith(PREFIX), f"the first line of {path} must be '{PREFIX}...'"
    result = CliRunner().invoke(app, [*shlex.split(first.removeprefix(PREFIX)), str(path.relative_to(HERE))])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.stderr
    expected = path.with_suffix(".diff")
    if golden:
        expected.write_text(result.stdout)
        return
    assert result.stdout == expected.read_text(), f"{expected} differs; 'make golden' writes it anew"


def test_every_pass_has_an_example() -> None:
    folders = {path.parent.name for path in EXAMPLES}
    assert set(PASSES) - folders == set()
