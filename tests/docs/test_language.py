"""The programs in docs/language.md are valid; the wrong ones get the message that stands behind them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mdsl.errors import MdslError
from mdsl.ir.verifier import verify
from mdsl.syntax.parser import parse
from mdsl.syntax.printer import print_module

PAGE = (Path(__file__).parents[2] / "docs" / "language.md").read_text()
PROGRAMS = re.findall(r"^```mir\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
WRONG = re.findall(r"^```mir error\n(.*?)^```\n\n```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", PROGRAMS, ids=range(len(PROGRAMS)))
def test_program_is_valid(text: str) -> None:
    module = parse(text, "language.md")
    verify(module)
    for generic in (False, True):
        printed = print_module(module, generic=generic, data=True)
        assert print_module(parse(printed, "printed"), generic=generic, data=True) == printed


@pytest.mark.parametrize(("text", "message"), WRONG, ids=range(len(WRONG)))
def test_message(text: str, message: str) -> None:
    with pytest.raises(MdslError) as error:
        verify(parse(text, "net.mir"))
    assert str(error.value) == message.rstrip("\n")
