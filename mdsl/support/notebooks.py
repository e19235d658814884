"""What notebooks show: highlighted text and tables as HTML, for light and dark themes. All text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from html import escape

from mdsl.support.escapes import escaped, one_line

_LINES = 1000
"""Lines of a text that are shown: a notebook keeps what it shows."""

_DARK = (
    '[data-jp-theme-light="false"] .mdsl',
    ".vscode-dark .mdsl",
)  # as Jupyter and VS Code mark a dark theme
_UNMARKED = "body:not([data-jp-theme-light], .vscode-light) .mdsl"
_LAYOUT = (
    ".mdsl pre { margin: 0; padding: 0.5em; line-height: 1.35; overflow-x: auto; white-space: pre; }"
    " table.mdsl td, table.mdsl th { text-align: left; font-family: monospace; }"
)


def highlighted(text: str, language: str) -> str:
    """A text in the colours of a language that Pygments knows ("mir", "diff"); where it does not, without."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import TextLexer, get_lexer_by_name
    from pygments.util import ClassNotFound

    lines = escaped(text).rstrip("\n").split("\n")
    more = [f"... {len(lines) - _LINES} more lines"] if len(lines) > _LINES else []
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        lexer = TextLexer(stripnl=False)
    body = highlight("\n".join([*lines[:_LINES], *more]), lexer, HtmlFormatter(cssclass="mdsl"))
    return f"<style>{_colours()}{_LAYOUT}</style>{body}"


@cache
def _colours() -> str:
    from pygments.formatters import HtmlFormatter

    light = HtmlFormatter(style="default").get_style_defs(".mdsl")
    dark = HtmlFormatter(style="github-dark")
    unmarked = f"@media (prefers-color-scheme: dark) {{ {dark.get_style_defs(_UNMARKED)} }}"
    return "\n".join([light, unmarked, *map(dark.get_style_defs, _DARK), ""])


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a title."""
    cells = lambda row, tag: "".join(f"<{tag}>{escape(one_line(c))}</{tag}>" for c in row)  # noqa: E731
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    head = f"<caption>{escape(one_line(title))}</caption><tr>{cells(header, 'th')}</tr>"
    return f'<style>{_LAYOUT}</style><table class="mdsl">{head}{body}</table>'
