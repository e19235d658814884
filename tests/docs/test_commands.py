"""The commands that the pages at the root and in docs/ show: each runs, from the root of the repository, and succeeds.

They stand in ```console blocks behind `$ `, and in ```sh blocks. Commands that install or fetch something are
not run; of `make` the target must exist. Of those that a sentence names, what they name must exist.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from mdsl.benchmarking import measure
from mdsl.cli import app
from mdsl.passes import pass_names
from tests.upstream import installed

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
SETTING_UP = ("git", "pip", "cd", "source", ".", "apt", "sudo", "npm", "code", "cp", "python3")


def commands(text: str) -> Iterator[str]:
    """The commands of a page; a line that ends in a backslash goes on in the next."""
    for kind, body in re.findall(r"^```(console|sh)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in re.sub(r"\\\n", " ", body).splitlines():
            if line.startswith("$ ") or (kind == "sh" and line.strip() and not line.startswith("#")):
                yield line.removeprefix("$ ").strip()


FOUND = list(dict.fromkeys(command for page in PAGES for command in commands(page.read_text())))
MPIEXEC = installed("mpiexec")
"""Where an MPI library from a package lies, or the system's; None without one, or without mpi4py."""
if find_spec("mpi4py") is None:
    MPIEXEC = None
LACKING = () if MPIEXEC else ("mpiexec",)
RUN = [c for c in FOUND if shlex.split(c)[0] not in (*SETTING_UP, "make", *LACKING)]
MADE = [c for c in FOUND if shlex.split(c)[0] == "make"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what commands read, and a folder `bin` with the programs that they call."""
    place = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "examples", place / "examples")
    (place / "bin").mkdir()
    for name, arguments in (("mdsl", "-c 'from mdsl.cli import main; main()'"), ("python", "")):
        program = place / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
        program.chmod(0o755)
    if MPIEXEC is not None:
        program = place / "bin" / "mpiexec"  # not a link: it looks for its helpers beside itself
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(MPIEXEC)} "$@" < /dev/null\n')
        program.chmod(0o755)
    return place


@pytest.fixture
def environment(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", str(workplace / "bin"), prepend=":")
    return workplace


def test_pages_show_commands() -> None:
    assert RUN


LONG = ("mpiexec", "--ablation=passes", "step.mir --ablation", "mdsl report")
"""Words of those that take seconds, and write what no other command reads."""


# In one test: a command may read what the one before it wrote.
@pytest.mark.parametrize("left_out", [LONG, pytest.param((), marks=pytest.mark.slow)], ids=["most", "all"])
def test_commands_run(
    left_out: tuple[str, ...],
    environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(measure, "BUDGET", 0.1)  # what is measured is not looked at
    for command in (c for c in RUN if not any(words in c for words in left_out)):
        code = _run(command, monkeypatch)
        assert code == 0, f"`{command}` ended with exit code {code}: {capfd.readouterr().err}"


def test_what_sentences_name_exists() -> None:
    """Commands between backticks, and those of make that stand by themselves: the subcommand with its options, the target, the module."""
    texts = [re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL) for page in PAGES]
    found = [
        c
        for text in texts
        for c in re.findall(r"`((?:mdsl|make|python -m|\.venv/bin/python -m) [^`]+)`", text)
    ]
    found += [c for text in texts for c in re.findall(r"^    (make [\w -]+)", text, re.MULTILINE)]
    assert len(found) > 100
    unknown = {command: names for command in [*found, *MADE] if (names := _unknown(shlex.split(command)))}
    assert not unknown


def _unknown(words: list[str]) -> list[str]:
    """What a command names that there is not. Words in capitals stand for others."""
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return [
            word for word in words[1:] if "=" not in word and not word.startswith("-") and word not in targets
        ]
    if "-m" in words:
        return [word for word in words[2:3] if find_spec(word) is None]
    command = typer.main.get_command(app)
    known = {name for option in command.params for name in option.opts}
    if not words[1].startswith("-"):
        command = command.commands.get(words[1])  # type: ignore[attr-defined]
        if command is None:
            return words[1:2]
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        if words[1] == "opt":
            known |= {f"--{name}" for name in pass_names()}
    options = [word.split("=")[0] for word in words[1:] if word.startswith("--")]
    return [word for word in options if word not in known and word != "--help" and not word.isupper()]


def _run(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code. A plain `mdsl` command runs in this process, where everything is imported already."""
    words = shlex.split(command, comments=True)
    if words[0] != "mdsl" or set(words) & {"|", "&&", ">", "<", ";"}:
        return subprocess.run(command, shell=True, check=False).returncode
    from mdsl import passes
    from mdsl.cli import main

    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        main()
    for loaded in (passes.OWN, passes.OWN_FILES):  # by this command, and not by the next one
        loaded.clear()
    return int(end.value.code or 0)
