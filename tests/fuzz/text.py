"""Programs with some of their words changed: reading, printing, verifying and compiling end in a result or in
MdslError, and what is printed reads as what it was printed from."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from random import Random

import mdsl
from mdsl.ir.core import VerifyError
from mdsl.syntax.parser import parse
from mdsl.syntax.printer import print_module

SUFFIX = "mir"
ROOT = Path(__file__).parents[2]
TOKEN = re.compile(
    r"""[A-Za-z_.$#%@!^][\w.$]*|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|"(?:[^"\\]|\\.)*"|\s+|.""", re.DOTALL
)
WORDS = ("-1", "0", "1", "2", "7", "9223372036854775808", "99999999999999999999999", "?", "1.0", "nan", "0x7FC00000",
         "f32", "bf16", "i1", "i64", "index", "tensor<4xf32>", "memref<?xf32>", "vector<4xf32>", "{", "}", "(", ")",
         "<", ">", ",", "[", "]", ":", "=", "->", '"', '"\\FF"', "//", "\0", "\u2028", "affine_map<(d0) -> (d0)>",
         "dense<1.0>", "dense<[1, 2]>", "array<i64: 1>", "loc(unknown)", "true", "unit", "%c", "@main", "#a")  # fmt: skip


@cache
def _sources() -> tuple[str, ...]:
    """Short programs, and each op as its reference page shows it."""
    folders = (ROOT / "examples", ROOT / "tests" / "engines" / "found", ROOT / "tests" / "passes")
    paths = sorted(path for folder in folders for path in folder.rglob("*.mir"))
    return *(path.read_text() for path in paths if path.stat().st_size < 4000), *_ops()


def _ops() -> list[str]:
    text = (ROOT / "docs" / "ops.mir").read_text()
    return ["func.func" + part for part in re.split(r"^func\.func", text, flags=re.MULTILINE)[1:]]


def make(seed: int) -> bytes:
    random = Random(seed)
    tokens = TOKEN.findall(random.choice(_sources()))
    for _ in range(random.choice([1, 1, 1, 2, 3, 6])):
        place, kind = random.randrange(len(tokens)), random.randrange(6)
        if kind == 0:
            del tokens[place : place + random.choice([1, 1, 2, 5])]
        elif kind == 1:
            tokens.insert(place, random.choice(WORDS))
        elif kind == 2:
            tokens[place] = random.choice(WORDS)
        elif kind == 3:
            tokens[place] = random.choice(tokens)
        elif kind == 4:
            other = random.randrange(len(tokens))
            tokens[place], tokens[other] = tokens[other], tokens[place]
        else:
            tokens[place:place] = tokens[place : place + random.choice([1, 3, 9])]
        if not tokens:
            break
    return "".join(tokens).encode()


def check(data: bytes) -> None:
    try:
        module = parse(data.decode(), "case.mir")
    except mdsl.MdslError:
        return
    text = print_module(module)
    assert print_module(parse(text, "printed.mir")) == text
    try:
        mdsl.compile(data.decode())
    except (mdsl.MdslError, VerifyError):
        return
