"""Random programs on every engine, by the generators of `tests/engines`."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))

from comparing import compare, exceptional_arrays, random_arrays, some_settings
from graphs import exceptional, graph
from loops import loops
from structured import structured

SUFFIX = "mir"
EXCEPTIONAL = "// exceptional\n"


def make(seed: int) -> bytes:
    random = Random(seed)
    generate = random.choice([graph, structured, loops, exceptional])
    return ((EXCEPTIONAL if generate is exceptional else "") + generate(random)).encode()


def check(data: bytes) -> None:
    text, random = data.decode(), Random(zlib.crc32(data))
    compare(
        text, some_settings(random, 3), exceptional_arrays if text.startswith(EXCEPTIONAL) else random_arrays
    )
