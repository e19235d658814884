"""What pages written for people refer to exists: links, and files and folders of mdsl that they name in backquotes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SKIPPED = (".venv", ".peers", ".aarch64", ".hypothesis", "node_modules")
PAGES = sorted(
    page for page in ROOT.rglob("*.md") if not set(page.relative_to(ROOT).parts) & set(SKIPPED)
)  # fmt: skip
IN_MDSL = sorted(path.name for path in (ROOT / "mdsl").iterdir() if not path.name.startswith("_"))
AT_ROOT = ("mdsl", "tests", "docs", "examples", "editors", "bench", *IN_MDSL)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """To a file of the repository, and in it to a heading."""
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(page.read_text())):
        path, _, heading = target.partition("#")
        if "://" in path:
            continue
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not heading or heading in _headings(found.read_text()), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_that_is_named_exists(page: Path) -> None:
    """`passes/linalg/fuse.py` is one of `mdsl/`, `tests/house/` of the repository. Examples have MY or my in the name."""
    for name in re.findall(r"`([\w./-]+/[\w./-]*)`", _without_fences(page.read_text())):
        if name.partition("/")[0] in AT_ROOT and not re.search(r"(?i)\bmy_?", name):
            assert any((place / name).exists() for place in (ROOT, ROOT / "mdsl", page.parent)), name


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", _without_fences(text))


def _without_fences(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


def _headings(text: str) -> set[str]:
    """As GitHub makes anchors: lower case, no punctuation, dashes for spaces."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
