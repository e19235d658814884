"""This checkout beside an earlier commit: what is asked for wrongly."""

from __future__ import annotations

import pytest
import typer

from bench.commits import main


def test_a_network_that_there_is_not() -> None:
    with pytest.raises(typer.BadParameter, match=r"unknown network 'mobilenet' \(networks: .*mobilenet"):
        main("HEAD", ["mobilenet"])
