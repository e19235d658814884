"""`mdsl report`: one page that holds all that is known of how a program was compiled."""

from __future__ import annotations

import base64
import html
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


def page(title: str, subtitle: str, data: Mapping[str, Any], assembly: Mapping[str, str]) -> str:
    """The page as HTML that needs nothing beside itself. `data` is what `collect.Collector` gathers, `assembly` the text of each
    kernel by its name."""
    parts = {
        "title": html.escape(title),
        "subtitle": html.escape(subtitle),
        "style": (_HERE / "style.css").read_text(encoding="utf-8"),
        "script": (_HERE / "script.js").read_text(encoding="utf-8"),
        "data": _deflated(data),
        "assembly": _deflated(assembly),
    }
    template = (_HERE / "page.html").read_text(encoding="utf-8")
    return re.sub(rf"\{{({'|'.join(parts)})\}}", lambda match: parts[match[1]], template)


def _deflated(value: Mapping[str, Any]) -> str:
    """JSON in base64, as `DecompressionStream` reads it."""
    return base64.b64encode(zlib.compress(json.dumps(value, separators=(",", ":")).encode(), 9)).decode()
