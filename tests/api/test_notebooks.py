"""What notebooks show of modules and executables."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

import mdsl
from mdsl.ir.core import Op
from mdsl.support.notebooks import highlighted

T = "tensor<4xf32>"
NET = f"""func.func @main(%x: {T}) -> {T} {{
  %y = nn.relu %x : ({T}) -> {T}
  return %y : {T}
}}
"""


class _Reader(HTMLParser):
    """The text of a page that is well-formed, and its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def shown(thing: object) -> str:
    method = getattr(thing, "_repr_html_")  # noqa: B009
    return method()


def test_a_module_is_its_text_in_colours() -> None:
    module = mdsl.parse(NET)
    page = _Reader(shown(module))
    assert page.text.strip() == str(module).strip()
    assert len(set(re.findall(r'<span class="(\w+)"', shown(module)))) > 3
    op = module.body.first
    assert isinstance(op, Op)
    assert "nn.relu" in _Reader(shown(op)).text


def test_there_are_colours_for_dark_themes() -> None:
    page = shown(mdsl.parse(NET))
    for mark in ("prefers-color-scheme: dark", 'data-jp-theme-light="false"', ".vscode-dark"):
        assert mark in page


@pytest.mark.parametrize("engine", ["vm", "reference"])
def test_an_executable_is_a_table_of_its_signature(engine: str) -> None:
    page = _Reader(shown(mdsl.compile(NET, engine=engine)))
    assert page.text == f"engine {engine}, 1 threadnametypeinputx4xf32outputy4xf32"


def test_what_a_program_says_is_no_html() -> None:
    hostile = "<script>alert(1)</script>\u202e"
    text = f'func.func @"{hostile}"() attributes {{x.a = "{hostile}"}} {{\n  return\n}}\n'
    page = _Reader(shown(mdsl.parse(text)))
    assert page.tags <= {"style", "div", "pre", "span"}
    assert "<script>" in page.text
    assert "\u202e" not in page.text
    renamed = NET.replace("(%x: tensor<4xf32>)", '(%x: tensor<4xf32> {mdsl.name = "<b>"})')
    table = _Reader(shown(mdsl.compile(renamed)))
    assert table.tags <= {"style", "table", "caption", "tr", "th", "td"}


def test_of_a_long_text_the_beginning_is_shown() -> None:
    page = _Reader(highlighted("line\n" * 5000, "mir"))
    assert page.text.count("line\n") == 1000
    assert "... 4000 more lines" in page.text


def test_a_language_that_is_not_known_has_no_colours() -> None:
    assert _Reader(highlighted("a < b", "no such language")).text.strip() == "a < b"
