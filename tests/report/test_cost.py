"""The cost of a program is the same work on every level; explaining finds its kernels and its memory."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import mdsl
from mdsl.benchmarking import profile
from mdsl.benchmarking.peak import Roofline
from mdsl.cli import command
from mdsl.cli.tables import distinct, shortened
from mdsl.compiler.settings import Settings
from mdsl.errors import MdslError
from mdsl.report.cost import cost_of
from mdsl.report.explain import Tracer
from mdsl.report.units import bytes_text
from mdsl.syntax.parser import parse, parse_file
from mdsl.target.target import TARGETS, Target

CNN = Path(__file__).parents[2] / "examples" / "mnist" / "cnn.mir"

M, K, N = 64, 48, 32
PRODUCT = f"""
func.func @main(%a: tensor<{M}x{K}xf32>, %b: tensor<{K}x{N}xf32>) -> tensor<{M}x{N}xf32> {{
  %c = nn.matmul %a, %b : (tensor<{M}x{K}xf32>, tensor<{K}x{N}xf32>) -> tensor<{M}x{N}xf32>
  return %c : tensor<{M}x{N}xf32>
}}
"""
STEPS = [
    "canonicalize",
    "lower-nn",
    "pack",
    "fuse",
    "tile",
    "outline-ukernels",
    "bufferize",
    "vectorize",
    "lower-vm",
]


@pytest.mark.parametrize("step", STEPS)
def test_a_product_is_its_multiply_adds_on_every_level(step: str) -> None:
    module = mdsl.opt(PRODUCT, step, target="avx2")
    assert cost_of(module, TARGETS["avx2"]).work.flops == 2 * M * K * N


def test_dispatches_are_counted_as_loops_run_them() -> None:
    module = mdsl.opt(PRODUCT, "tile{sizes=[4,8]},unroll-dispatch{factor=4,jam=false}", target="avx2")
    work = cost_of(module, TARGETS["avx2"]).work
    tiles = M // 4 * (N // 8)
    packs = work.calls - tiles
    assert 0 <= packs < tiles and work.dispatches <= tiles // 4 + packs


def test_fusing_moves_fewer_bytes() -> None:
    chain = """
    func.func @main(%x: tensor<1024xf32>) -> tensor<1024xf32> {
      %a = nn.relu %x : (tensor<1024xf32>) -> tensor<1024xf32>
      %b = nn.tanh %a : (tensor<1024xf32>) -> tensor<1024xf32>
      return %b : tensor<1024xf32>
    }
    """
    before = cost_of(mdsl.opt(chain, "lower-nn"), TARGETS["avx2"])
    after = cost_of(mdsl.opt(chain, "fuse"), TARGETS["avx2"])
    assert after.bytes < before.bytes and after.work.flops == before.work.flops


def test_a_line_of_cost_stands_above_each_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = tmp_path / "net.mir"
    net.write_text(PRODUCT)
    assert (
        command(["opt", "--tile", "--outline-ukernels", "--cost", "--diff", "--target=avx2", str(net)]) == 0
    )
    out = capsys.readouterr().out
    assert out.startswith("// cost of tile: ")
    assert "dispatches" in out[out.index("// cost of outline-ukernels: ") :].splitlines()[0]


def test_measured_times_stand_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = tmp_path / "net.mir"
    net.write_text(PRODUCT)
    assert command(["opt", "--unroll-dispatch=4", "--measure", str(net)]) == 0
    assert "measured " in capsys.readouterr().err


@pytest.mark.parametrize("query", ["c", "%c", "3", "net.mir:3"])
def test_explaining_finds_an_op_by_name_and_line(
    query: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.mir").write_text(PRODUCT)
    assert command(["explain", "net.mir", "--op", query, "--target=avx2", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["op"] == "%c" and found["flops"] == 2 * M * K * N
    steps = {r["pass"] for r in found["remarks"]}
    assert {"pack", "tile", "outline-ukernels", "vectorize"} <= steps
    assert sum(k["calls"] for k in found["kernels"]) >= 1


FUSED = """func.func @main(%x: tensor<32x64xf32>, %w: tensor<64x64xf32>, %b: tensor<64xf32>) -> tensor<32x64xf32> {
  %first = nn.matmul %x, %w : (tensor<32x64xf32>, tensor<64x64xf32>) -> tensor<32x64xf32>
  %biased = nn.add %first, %b : (tensor<32x64xf32>, tensor<64xf32>) -> tensor<32x64xf32>
  %positive = nn.relu %biased : (tensor<32x64xf32>) -> tensor<32x64xf32>
  %second = nn.matmul %positive, %w : (tensor<32x64xf32>, tensor<64x64xf32>) -> tensor<32x64xf32>
  %biased_second = nn.add %second, %b : (tensor<32x64xf32>, tensor<64xf32>) -> tensor<32x64xf32>
  %y = nn.relu %biased_second : (tensor<32x64xf32>) -> tensor<32x64xf32>
  return %y : tensor<32x64xf32>
}"""


def test_what_was_fused_tells_its_kernel() -> None:
    """Also in the second of two layers that share a kernel, which has the places of the first."""
    tracer = Tracer.lowering(mdsl.parse(FUSED), Settings(target="avx2"))
    for layer in (("first", "biased", "positive"), ("second", "biased_second", "y")):
        found = [tracer.find(name)[0] for name in layer]
        kernels = {use.kernel for e in found for use in e.uses if "matmul" in use.kernel}
        assert kernels
        assert all(e.uses or kernels <= set(e.within) for e in found), [e.within for e in found]


def test_an_op_that_is_not_there_is_answered_with_names_that_have_it() -> None:
    with pytest.raises(
        MdslError, match="no op, line or kernel 'SECOND'; names with it: %second, %biased_second"
    ):
        Tracer.lowering(mdsl.parse(FUSED), Settings(target="avx2")).find("SECOND")
    with pytest.raises(MdslError, match="no op, line or kernel 'net'$"):
        Tracer.lowering(mdsl.parse(FUSED, "net.mir"), Settings(target="avx2")).find("net")


def test_explaining_a_kernel_finds_its_op(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = tmp_path / "net.mir"
    net.write_text(PRODUCT)
    assert command(["explain", str(net), "--json", "--target=avx2"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    kernel = found["kernels"][-1]["kernel"]
    assert command(["explain", str(net), "--op", f"@{kernel}", "--target=avx2"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("%c = nn.matmul") and f"@{kernel}:" in page and "by the roofline" in page


def test_constants_are_told_with_what_reads_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, size = CNN, 64 * 1568 * 4
    assert command(["explain", str(net), "--target=avx2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("constants: "))
    assert f": {bytes_text(size)}, memref<" in lines[at + 1] and lines[at + 1].endswith(", for %fc1")
    assert command(["explain", str(net), "--op", "fc1", "--target=avx2", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert max(c["nbytes"] for c in found["constants"]) == size


def test_what_uses_a_buffer_or_a_constant_is_found() -> None:
    tracer = Tracer.lowering(parse_file(CNN), Settings(target="avx2"))
    for e in tracer.all():
        for name in (*(m.name for m in e.memory), *(c.name for c in e.constants)):
            users = [user.name for user in tracer.find(name)]
            assert users == [name] or e.name in users, name  # an op of that name comes first
            assert len(users) < len(tracer.all())


def test_a_name_that_the_text_spells_otherwise_is_found() -> None:
    named = mdsl.parse(PRODUCT)
    product = next(op for op in named.walk() if op.name == "nn.matmul")
    product.results[0].name = "/layers.0/product"
    found = Tracer.lowering(named, Settings(target="avx2")).find("/layers.0/product")
    assert [e.name for e in found] == ["%_layers.0_product"]
    assert any(t.step == "tile" for t in found[0].told)


def test_a_wrong_name_is_told_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = tmp_path / "net.mir"
    net.write_text(PRODUCT.replace("%c", "%product"))
    assert command(["explain", str(net), "--op", "prodct"]) == 1
    assert "did you mean '%product'?" in capsys.readouterr().err


CHAIN = """\
func.func @main(%x: tensor<64x64xf32>) -> tensor<64x64xf32> {
  %a = nn.matmul %x, %x : (tensor<64x64xf32>, tensor<64x64xf32>) -> tensor<64x64xf32>
  %b = nn.tanh %a : (tensor<64x64xf32>) -> tensor<64x64xf32>
  %s = nn.softmax %b {axis = 1 : i64} : (tensor<64x64xf32>) -> tensor<64x64xf32>
  %y = nn.add %s, %x : (tensor<64x64xf32>, tensor<64x64xf32>) -> tensor<64x64xf32>
  func.return %y : tensor<64x64xf32>
}
"""


def test_what_was_fused_is_told_by_what_took_it_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = tmp_path / "net.mir"
    net.write_text(CHAIN)
    assert command(["explain", str(net), "--op", "s", "--target=avx2"]) == 0
    assert "%y takes in %s\n" in capsys.readouterr().out


def test_the_arena_is_told_with_what_lies_in_it_at_its_fullest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = tmp_path / "net.mir"
    net.write_text(CHAIN)
    assert command(["explain", str(net), "--target=avx2"]) == 0
    head, *rows = capsys.readouterr().out.partition("arena: ")[2].splitlines()
    tracer = Tracer.lowering(parse(CHAIN), Settings(target="avx2"))
    assert tracer.peak is not None and tracer.peak.nbytes <= tracer.peak.arena
    assert sum(p.nbytes for p in tracer.peak.places) == tracer.peak.nbytes
    assert bytes_text(tracer.peak.nbytes) in head and len(rows) == len(tracer.peak.places) > 0
    sizes = [p.nbytes for p in tracer.peak.places]
    assert sizes == sorted(sizes, reverse=True)


def test_remarks_that_are_alike_are_told_once_with_their_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = tmp_path / "net.mir"
    net.write_text(CHAIN)
    assert command(["explain", str(net), "--op", "y", "--target=avx2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(set(lines)) == len(lines) and any(line.endswith(" times)") for line in lines)


def test_a_program_on_memory_is_explained_by_its_dispatches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lowered = tmp_path / "lowered.mir"
    lowered.write_text(str(mdsl.opt(PRODUCT, "vectorize", target="avx2")))
    assert command(["explain", str(lowered), "--json", "--target=avx2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found and sum(e["flops"] for e in found) == 2 * M * K * N


def test_remarks_of_what_took_an_op_in_are_found_by_its_place() -> None:
    """`fuse` tells them of %b_packed, which no op of the source is called: the product's place is among the others."""
    (found,) = Tracer.lowering(mdsl.parse(CHAIN, "net.mir"), Settings(target="avx2")).find("a")
    taken = [t.remark for t in found.told if t.remark.fused and t.remark.places[0] != found.location]
    assert taken and all(found.location in remark.places for remark in taken)


def test_long_names_are_cut_and_found_as_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "network." + "block." * 12 + "product"
    net = tmp_path / "net.mir"
    net.write_text(PRODUCT.replace("%c", f"%{name}"))
    assert command(["explain", str(net), "--target=avx2"]) == 0
    text = capsys.readouterr().out
    cut = text.splitlines()[1].split()[0]
    assert "..." in cut and len(cut) < 50 and name not in text
    for query in (cut, "*product", "nn.matmul"):
        assert command(["explain", str(net), "--op", query, "--target=avx2"]) == 0
        first, *rest = capsys.readouterr().out.splitlines()
        assert first.startswith(f"%{name} = ") and any("..." in line for line in rest)
        assert not any(name in line for line in rest)


def test_a_bound_size_is_bound_once(capsys: pytest.CaptureFixture[str]) -> None:
    net = CNN.parents[1] / "passes" / "bind.mir"
    assert command(["explain", str(net), "--bind", "batch=2", "--measure"]) == 0
    head = capsys.readouterr().out.splitlines()[0].split("  ")
    assert [name.strip() for name in head if name.strip()][-3:] == ["measured", "share", "of the peak"]


NODE = """func.func @main(%x: tensor<1x8x12xf32>) -> tensor<1x16x10xf32> {
  %w = arith.constant dense<0.5> : tensor<16x8x1x3xf32>
  %image = nn.reshape %x : (tensor<1x8x12xf32>) -> tensor<1x8x1x12xf32> loc("Conv")
  %features = nn.conv2d %image, %w : (tensor<1x8x1x12xf32>, tensor<16x8x1x3xf32>) -> tensor<1x16x1x10xf32> loc("Conv")
  %y = nn.reshape %features : (tensor<1x16x1x10xf32>) -> tensor<1x16x10xf32> loc("Conv")
  func.return %y : tensor<1x16x10xf32>
}
"""


def test_of_the_ops_of_a_node_the_one_that_computes_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = tmp_path / "net.mir"
    net.write_text(NODE)
    assert command(["explain", str(net), "--target=avx2", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["op"], row["opcode"]) == ("%features", "nn.conv2d")


def test_long_names_are_cut_as_far_as_they_stay_apart() -> None:
    names = [f"%stage.{n}.{'block' * 8}.convolution" for n in (1, 2)]
    assert distinct(names) == [shortened(name) for name in names] and all("..." in n for n in distinct(names))
    names = [f"%{'a' * 30}{n}{'b' * 30}" for n in (1, 2)]
    assert distinct(names) == names
    assert distinct([names[0], names[0]]) == [shortened(names[0])] * 2


def test_what_is_furthest_from_the_peak_is_named(executes: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["explain", str(CNN), "--measure"]) == 0
    out = capsys.readouterr().out
    told = re.findall(r"^  %\w+: (\S+) (\w+) of \S+ \w+ \(-?\d+ % of the peak\)$", out, re.MULTILINE)
    gaps = [float(number) * {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}[unit] for number, unit in told]
    assert (
        "furthest from the measured peak" in out and gaps == sorted(gaps, reverse=True) and 0 < len(gaps) <= 3
    )


def test_the_rate_of_the_near_cache_is_not_that_of_a_few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading so little takes less time than the call that reads it."""
    text = """
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %w = arith.constant dense<[1.0, 2.0, 3.0, 4.5]> : tensor<4xf32>
  %y = nn.add %x, %w : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  return %y : tensor<4xf32>
}"""
    read: list[int | None] = []

    def measured(threads: int, target: Target, nbytes: int | None) -> Roofline:
        read.append(nbytes)
        return Roofline(1e9, 1e9)

    monkeypatch.setattr(profile, "measure_roofline", measured)
    assert profile.profile_module(parse(text), Settings(), 1).source == "the cores' own caches"
    assert read == [int(Target.host().core.l2_kept)] * 2
