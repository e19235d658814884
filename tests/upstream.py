"""Programs of others, where they are installed: beside this Python or on the path. Upstream's parser and verifier is a judge."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

SPLIT = "\n// -----\n"
"""What stands between modules of one text."""


def installed(name: str) -> str | None:
    """Where a program lies."""
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


needs_upstream = pytest.mark.skipif(
    installed("iree-opt") is None, reason="iree-base-compiler is not installed"
)


def read_by_upstream(texts: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """What upstream says of modules, each read by itself, in one process."""
    command = [str(installed("iree-opt")), "--allow-unregistered-dialect", "--split-input-file", "-"]
    return subprocess.run(
        command, input=SPLIT.join(texts), capture_output=True, text=True, timeout=300, check=False
    )
