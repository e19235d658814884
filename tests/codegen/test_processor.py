"""What Linux tells of the processor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mdsl.target import processor

CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
model\t\t: 49
model name\t: Some: processor
flags\t\t: fpu sse4_1

processor\t: 1
vendor_id\t: AuthenticAMD
model\t\t: 50
"""
CACHES = [
    ("Data", 1, "32K"),
    ("Instruction", 1, "64K"),
    ("Unified", 2, "512K"),
    ("Unified", 3, "16M"),
    ("Unified", 4, "?"),
]


@pytest.fixture(autouse=True)
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Linux tells what the test says."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(CPUINFO)
    for number, (kind, level, size) in enumerate(CACHES):
        folder = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{number}"
        folder.mkdir(parents=True)
        for name, text in (("type", kind), ("level", str(level)), ("size", size)):
            (folder / name).write_text(f"{text}\n")
    monkeypatch.setattr(processor, "Path", lambda path: tmp_path / path.lstrip("/"))
    kept = (processor._cpuinfo, processor._caches)
    for function in kept:
        function.cache_clear()
    yield
    for function in kept:
        function.cache_clear()


def test_the_first_processor_counts() -> None:
    said = [processor._said(name) for name in ("vendor_id", "model", "model name", "flags", "Features")]
    assert said == ["AuthenticAMD", "49", "Some: processor", "fpu sse4_1", ""]


def test_data_caches() -> None:
    assert [processor.cache_bytes(n, 7) for n in range(1, 6)] == [32 << 10, 512 << 10, 16 << 20, 7, 7]
