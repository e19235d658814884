"""A trace keeps each step of a pipeline: program, diff, cost, remarks."""

from __future__ import annotations

import numpy as np
import pytest

import mdsl
from mdsl.reference import run

NET = """
func.func @main(%x: tensor<4x8xf32>, %w: tensor<8x16xf32>) -> tensor<4x16xf32> {
  %y = nn.matmul %x, %w : (tensor<4x8xf32>, tensor<8x16xf32>) -> tensor<4x16xf32>
  %z = nn.relu %y : (tensor<4x16xf32>) -> tensor<4x16xf32>
  return %z : tensor<4x16xf32>
}
"""


def test_every_step_is_kept_as_it_was() -> None:
    found = mdsl.trace(NET, target="avx2")
    assert [step.name for step in found][-1] == "lower-vm"
    inputs = [np.ones((4, 8), np.float32), np.eye(8, 16, dtype=np.float32)]
    (wanted,) = run(found.source, inputs)
    for step in found:
        (result,) = run(step.module, inputs)
        np.testing.assert_allclose(result, wanted, err_msg=step.name)


def test_a_step_has_diff_cost_and_remarks() -> None:
    step = mdsl.trace(NET, "fuse,tile{sizes=[2,8]}", target="avx2")["fuse"]
    assert step.diff and "linalg" in str(step)
    assert step.cost.work.flops >= 2 * 4 * 8 * 16
    assert any("is the epilogue of" in remark.message for remark in step.remarks)
    assert step.level == "linalg"


def test_a_step_that_changed_nothing_says_why() -> None:
    step = mdsl.trace(NET, "fold-batchnorm")["fold-batchnorm"]
    assert not step.diff and str(step) == "=== fold-batchnorm changed nothing: there is no nn.batch_norm\n"


def test_the_program_is_not_altered_and_a_wrong_name_is_told() -> None:
    module = mdsl.parse(NET)
    before = str(module)
    found = mdsl.trace(module, "fuse")
    assert str(module) == before
    with pytest.raises(KeyError):
        found["tile"]


def test_notebooks_show_a_table_of_the_steps_and_a_step_in_colours() -> None:
    found = mdsl.trace(NET, "fuse", target="avx2")
    assert "<td>fuse</td>" in found._repr_html_()
    assert "<style>" in found["fuse"]._repr_html_()
