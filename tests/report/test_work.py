"""Counting what kernels compute and touch, and measuring what the machine can do."""

from __future__ import annotations

import pytest

from mdsl.benchmarking.peak import Roofline, _fma_loop, fma_loop, measure_bandwidth, measure_peak, read_loop
from mdsl.benchmarking.work import _union, kernel_flops
from mdsl.codegen.native import to_assembly
from mdsl.target.target import Target

KERNEL = """
ukernel.func @k(%a: memref<8x16xf32>, %n: index) {
  %c0 = arith.constant 0 : index
  %c2 = arith.constant 2 : index
  %c8 = arith.constant 8 : index
  %zero = arith.constant dense<0.0> : vector<16xf32>
  %yes = arith.constant true
  scf.for %i = %c0 to %c8 step %c2 {
    %x = vector.load %a[%i, %c0] : memref<8x16xf32>, vector<16xf32>
    %y = vector.fma %x, %x, %zero : vector<16xf32>
    %e = math.exp %y : vector<16xf32>
    %j = arith.addi %i, %c2 : index
    vector.store %e, %a[%i, %c0] : memref<8x16xf32>, vector<16xf32>
  }
  ukernel.return
}
"""


def test_flops_count_every_trip_and_no_index() -> None:
    assert kernel_flops(KERNEL) == 4 * 16 * (2 + 1)


def test_flops_of_unknown_bounds_are_one_trip() -> None:
    assert kernel_flops(KERNEL.replace("to %c8", "to %n")) == 16 * (2 + 1)


def test_bytes_that_overlap_count_once() -> None:
    assert _union([(0, 9), (5, 11), (20, 20), (3, 3)]) == 13  # type: ignore[list-item]


def test_a_roofline_is_the_slower_of_work_and_bytes() -> None:
    roof = Roofline(flops=100.0, bandwidth=10.0)
    assert roof.seconds(200.0, 10.0) == 2.0
    assert roof.seconds(100.0, 50.0) == 5.0
    assert roof.best(Roofline(90.0, 11.0)) == Roofline(100.0, 11.0)


def test_loops_measure_something_plausible() -> None:
    """A processor does more than one and less than a million GFLOP/s, and reads more than 0.1 GB/s."""
    assert 1 < measure_peak(repetitions=3) < 1e6
    assert 0.1 < measure_bandwidth(1 << 20, 3) < 1e5
    assert 0.1 < measure_bandwidth(1 << 20, 3, threads=2) < 1e5


@pytest.mark.parametrize(
    ("target", "instruction"), [("x86-64", "mulps"), ("avx2", "vfmadd"), ("neon", "fmla")]
)
def test_the_peak_is_that_of_the_targets_own_instructions(target: str, instruction: str) -> None:
    """Without FMA a call of the library's function would be it."""
    machine = Target.parse(target)
    text = to_assembly(_fma_loop("f32", machine.lanes("f32"), 8), machine)
    assert instruction in text and "fmaf" not in text


def test_read_loop_reads_whole_steps() -> None:
    call, nbytes = read_loop(1_000_000)
    call()
    assert 990_000 < nbytes <= 1_000_000
    assert fma_loop()[1] > 0
