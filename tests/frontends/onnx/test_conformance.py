"""The committed table of ONNX's backend tests: each one passes, or fails, as the table says, and for that reason."""

from __future__ import annotations

import re

import pytest
from _pytest.mark import ParameterSet

pytest.importorskip("onnx")

from conformance import cases, outcome, read_table, write_table


def test_the_table_lists_every_case(golden: bool) -> None:
    if golden:
        write_table({name: outcome(name) for name in cases()})
    assert set(read_table()) == set(cases()), "renew the table: pytest --golden, see its head"


_SLOW = re.compile(
    r"_expanded|reduce_\w+_random|attention_3d_(causal|diff|gqa_|scaled|softcap)"
    r"|attention_[34]d_(gqa|diff_heads|with_past_and_present|attn_mask|causal)_.*_"
    r"|attention_4d_(gqa_(causal|scaled|softcap)|(causal_)?(fp|bf)16)|attention_local_window_(ext_cache_(rank[34]|float)|gqa)"
    r"|gridsample_.*_additional|sce_.*(weight|ii|\dd)\w*_log_prob"
)
"""What is written as the simpler nodes that another case's node stands for, of each of which there are cases; and what puts
together features of an operator that other cases have one by one, or other numbers."""


def _case(name: str) -> ParameterSet:
    return pytest.param(name, marks=pytest.mark.slow if _SLOW.search(name) else ())


@pytest.mark.parametrize("name", [_case(name) for name in read_table()])
def test_case(name: str, golden: bool) -> None:
    if golden:
        pytest.skip("the table is being renewed")
    assert outcome(name) == read_table()[name], "renew the table, if this is right: see its head"
