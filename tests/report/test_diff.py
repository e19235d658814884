"""The structural diff: what belongs together, what is no noise, what folds; through `mdsl.diff` and `mdsl opt --diff`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import mdsl
from mdsl.cli import app, command
from mdsl.cli.diffs import FORMS
from mdsl.compiler.pipeline import parse_pipeline, run_passes
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Op
from mdsl.report.diff.model import Diff
from mdsl.report.diff.watching import Diffs

CONV = "(tensor<1x8x6x6xf32>, tensor<8x8x3x3xf32>) -> tensor<1x8x6x6xf32>"


def layers(number: int, between: int = 0) -> str:
    """Convolutions one after the other, each with a clip, and as many reshapes that no pass touches behind them."""
    lines = ["func.func @main(%x0: tensor<1x8x6x6xf32>, %w: tensor<8x8x3x3xf32>) -> tensor<1x8x6x6xf32> {"]
    for k in range(number):
        lines.append(f"  %c{k} = nn.conv2d %x{k}, %w {{pads = [1, 1, 1, 1]}} : {CONV}")
        lines.append(f"  %x{k + 1} = nn.relu %c{k} : (tensor<1x8x6x6xf32>) -> tensor<1x8x6x6xf32>")
    return "\n".join([*lines, f"  return %x{number} : tensor<1x8x6x6xf32>", "}"]) + "\n"


CHAIN = """func.func @main(%a: tensor<8xf32>, %b: tensor<8xf32>) -> tensor<8xf32> {
  %s = nn.add %a, %b : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  %r = nn.relu %s : (tensor<8xf32>) -> tensor<8xf32>
  %t = nn.tanh %b : (tensor<8xf32>) -> tensor<8xf32>
  %m = nn.mul %r, %t : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  return %m : tensor<8xf32>
}
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("net.mir").write_text(layers(20))
    return "net.mir"


def opt(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["opt", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def after(module: ModuleOp, pipeline: str) -> list[Diff]:
    """The diffs of passes that run on `module`."""
    found: list[Diff] = []
    run_passes(module, parse_pipeline(pipeline), hooks=[Diffs(found.append)])
    return found


def changed(before: str, text: str) -> list[tuple[str, list[str], list[str]]]:
    """Kind of each rewrite, and the ops of both sides."""
    return [
        (r.kind, [o.name for o in r.before], [o.name for o in r.after])
        for r in mdsl.diff(before, text).rewrites
    ]


# Any two programs -------------------------------------------------------------------------------------------


def test_equal_programs_do_not_differ() -> None:
    assert not mdsl.diff(CHAIN, CHAIN)
    assert str(mdsl.diff(CHAIN, CHAIN)) == ""


def test_other_names_are_no_difference() -> None:
    assert not mdsl.diff(
        CHAIN, CHAIN.replace("%s", "%sum").replace("%t ", "%other ").replace("%t :", "%other :")
    )


def test_what_moved_is_shown_as_moved_once() -> None:
    lines = CHAIN.splitlines()
    lines[1:4] = [lines[3], lines[1], lines[2]]
    moved = "\n".join(lines)
    assert changed(CHAIN, moved) == [("move", ["nn.tanh"], ["nn.tanh"])]
    shown = str(mdsl.diff(CHAIN, moved))
    assert [line for line in shown.splitlines() if "nn.tanh %b" in line] == [
        "> %t = nn.tanh %b : (tensor<8xf32>) -> tensor<8xf32>"
    ]
    assert not any(line[:1] in "-+" for line in shown.splitlines())


def test_what_is_altered_is_a_pair() -> None:
    other = CHAIN.replace("nn.mul %r, %t", "nn.mul %r, %a")
    assert ("update", ["nn.mul"], ["nn.mul"]) in changed(CHAIN, other)


def test_what_replaces_an_op_stands_beside_it() -> None:
    other = CHAIN.replace("%r = nn.relu", "%r = nn.sigmoid")
    assert changed(CHAIN, other) == [("rewrite", ["nn.relu"], ["nn.sigmoid"])]


def test_an_op_more_and_an_op_less() -> None:
    lines = CHAIN.splitlines()
    longer = "\n".join([*lines[:4], lines[3].replace("%t", "%u").replace("%b", "%a"), *lines[4:]])
    assert changed(CHAIN, longer) == [("add", [], ["nn.tanh"])]
    assert changed(longer, CHAIN) == [("remove", ["nn.tanh"], [])]


def test_functions_are_matched_by_name() -> None:
    other = CHAIN.replace("@main", "@other")
    both = mdsl.diff(CHAIN + other, other + CHAIN)
    assert [r.kind for r in both.rewrites] == ["move"]
    assert {r.scope for r in mdsl.diff(CHAIN, CHAIN + other).rewrites} == {"@other"}


def test_what_passes_made_is_followed_by_history() -> None:
    before = mdsl.parse(CHAIN)
    found = mdsl.diff(before, mdsl.opt(before, "lower-nn"))
    rewritten = [r for r in found.rewrites if r.before]
    assert sorted(r.name for r in rewritten) == ["%m", "%r", "%s", "%t"]
    assert all(r.after[-1].name == "linalg.generic" for r in rewritten)
    assert [r.name for r in found.rewrites if not r.before] == ["%init"]


def run(*arguments: str, input: str | None = None) -> Result:
    result = CliRunner().invoke(app, ["diff", *arguments], input=input)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Two programs with an op that differs."""
    monkeypatch.chdir(tmp_path)
    Path("a.mir").write_text(CHAIN)
    Path("b.mir").write_text(CHAIN.replace("%r = nn.relu", "%r = nn.sigmoid"))
    return "a.mir", "b.mir"


def test_files_are_compared_as_programs_are(pair: tuple[str, str]) -> None:
    expected = str(mdsl.diff(*map(Path, pair))).replace("=== diff:", "=== a.mir -> b.mir:")
    assert run(*pair).stdout == expected and "nn.sigmoid" in expected
    assert run("a.mir", "-", input=Path("b.mir").read_text()).stdout == expected.replace("b.mir", "<stdin>")
    assert run(*pair, "-o", "d.diff").stdout == "" and Path("d.diff").read_text() == expected


@pytest.mark.parametrize("form", FORMS)
def test_files_are_compared_in_every_form(form: str, pair: tuple[str, str]) -> None:
    shown = run(*pair, f"--form={form}", "--exit-code")
    assert shown.exit_code == 1 and "nn.relu" in shown.stdout and "nn.sigmoid" in shown.stdout
    same = run("a.mir", "a.mir", f"--form={form}", "--exit-code")
    assert same.exit_code == 0 and "nn." not in same.stdout


def test_of_two_files_a_part_is_shown(pair: tuple[str, str]) -> None:
    assert run(*pair, "--only=%r", "--exit-code").exit_code == 1
    other = run(*pair, "--only=%t", "--exit-code")
    assert (other.exit_code, other.stdout, other.stderr) == (0, "", "note: no change is about '%t'\n")


def test_what_cannot_be_compared_is_said(pair: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["-", "-"], "error: only one of two programs can be on stdin"),
        ([*pair, "--form=stats"], "error: --form has no form 'stats'; did you mean 'stat'?"),
        (
            [*pair, "--form=unified", "--expand"],
            "error: --expand goes with --form in another form than unified",
        ),
        ([*pair, "-o", "none/d.diff"], "none/d.diff: error: cannot write"),
        (["a.mir", "none.mir"], "none.mir: error: cannot read the file"),
        ([*pair, "-o", "b.mir"], "b.mir: error: the output is the input file, which would be lost"),
    ):
        assert command(["diff", *arguments]) == 1
        assert message in capsys.readouterr().err


def test_weights_that_differ_are_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "func.func @main() -> tensor<2xf32> {\n  %w = arith.constant dense_resource<w> : tensor<2xf32>\n  return %w : tensor<2xf32>\n}\n"
    for name, data in (("a", "0000803F00000040"), ("b", "0000803F00004040")):
        Path(f"{name}.mir").write_text(
            f'{text}{{-# dialect_resources: {{ builtin: {{ w: "0x04000000{data}" }} }} #-}}\n'
        )
    shown = run("a.mir", "b.mir", "--exit-code")
    assert shown.exit_code == 1
    assert "\n  1 of 2 elements of w differ, by 1 at most\n" in shown.stdout
    unified = run("a.mir", "b.mir", "--form=unified", "--exit-code")
    assert (unified.exit_code, unified.stdout) == (
        1,
        "Weights differ: 1 of 2 elements of w differ, by 1 at most\n",
    )
    for form in ("structural", "unified"):
        assert run("a.mir", "a.mir", "--exit-code", f"--form={form}").exit_code == 0


# Passes -----------------------------------------------------------------------------------------------------


def test_one_op_is_followed_to_the_several_it_became() -> None:
    (diff,) = after(mdsl.parse(layers(1)), "lower-nn")
    conv, relu = (r for r in diff.rewrites if r.before)
    assert [op.name for op in conv.before] == ["nn.conv2d"]
    assert {"tensor.pad", "linalg.fill", "linalg.conv_2d_nchw_fchw"} <= {op.name for op in conv.after}
    assert [op.name for op in relu.before] == ["nn.relu"]


def test_alike_rewrites_are_shown_once(net: str) -> None:
    shown = opt(net, "--lower-nn", "--diff").stdout
    assert [line.split(" : ")[0] for line in shown.splitlines() if line.startswith("- ")] == [
        "- %c0 = nn.conv2d %x0, %w {pads = [1, 1, 1, 1]}",
        "- %x1 = nn.relu %c0",
    ]
    assert "@@ 19 x nn.conv2d -> " in shown or "@@ 20 x nn.conv2d -> " in shown
    assert "@@ 20 x nn.relu -> linalg.generic: %x1, %x2, " in shown
    expanded = opt(net, "--lower-nn", "--diff", "--expand").stdout
    assert sum(" = nn.relu " in line for line in expanded.splitlines()) == 20


def test_blocks_follow_the_ways_not_the_ops() -> None:
    for number in (5, 40):
        (diff,) = after(mdsl.parse(layers(number)), "lower-nn")
        assert len(diff.groups) <= 4


def test_what_stayed_folds(net: str) -> None:
    text = layers(8).replace(
        "%c7 = nn.conv2d %x7, %w {pads = [1, 1, 1, 1]}",
        "%c7 = nn.conv2d %x7, %w {pads = [1, 1, 1, 1], groups = 1}",
    )
    assert "... 15 ops" in str(mdsl.diff(layers(8), text))


def test_what_went_into_something_new_is_marked(net: str) -> None:
    shown = opt("--fuse", "--diff", str(Path(__file__).parents[2] / "examples/passes/fuse.mir")).stdout
    assert ">   %product = linalg.matmul" in shown
    assert "-   %product = linalg.matmul" not in shown and "+   %product = linalg.matmul" not in shown


def test_lines_keep_to_the_width(net: str) -> None:
    for form in ("structural", "side", "stat"):
        shown = opt(net, "--vectorize", "--target=avx2", f"--diff={form}").stdout
        assert shown and max(map(len, shown.splitlines())) <= 120


def test_a_diff_of_many_ways_stays_short(net: str) -> None:
    for flag in ("--tile", "--outline-ukernels", "--bufferize", "--vectorize", "--lower-vm"):
        assert opt(net, flag, "--target=avx2", "--diff").stdout.count("\n") <= 400


def test_a_pass_that_changes_nothing(net: str) -> None:
    result = opt(net, "--canonicalize", "--diff", "--exit-code")
    assert (result.stdout, result.exit_code) == ("", 0)
    assert "note: pass 'canonicalize' changed nothing" in result.stderr
    assert opt(net, "--lower-nn", "--diff", "--exit-code").exit_code == 1
    assert opt(net, "--lower-nn", "--exit-code").exit_code == 1


def test_only(net: str) -> None:
    shown = opt(net, "--lower-nn", "--diff", "--only=%x3").stdout
    assert "%c2" in shown and "%c1 =" not in shown
    for name in ("net.mir:5:*", "x2"):
        shown = opt(net, "--lower-nn", "--diff", f"--only={name}").stdout
        assert shown.count("@@") == 1 and " nn.relu -> " in shown
    assert " nn.conv2d " in opt(net, "--lower-nn", "--diff", "--only=main").stdout
    # What passes have renamed is found by the name that it was written under.
    assert "scf.forall" in opt(net, "--tile", "--diff", "--only=%c1").stdout
    nothing = opt(net, "--lower-nn", "--diff", "--only=@other")
    assert nothing.stdout == "" and "note: no change is about '@other'" in nothing.stderr


def test_json(net: str) -> None:
    (found,) = json.loads(opt(net, "--lower-nn", "--diff=json").stdout)
    assert found["pass"] == "lower-nn"
    relus = [r for r in found["rewrites"] if [op["op"] for op in r["before"]] == ["nn.relu"]]
    assert len(relus) == 20 and len({r["group"] for r in relus}) == 1
    assert relus[0]["before"][0]["place"] == "net.mir:3:9"
    assert relus[0]["after"][-1]["passes"] == ["lower-nn"]


def test_stat(net: str) -> None:
    words = [line.split() for line in opt(net, "--lower-nn", "--diff=stat").stdout.splitlines()]
    assert ["nn.relu", "20", "->", "0"] in words


def test_unknown_forms(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(mdsl.MdslError, match="did you mean 'stat'"):
        opt(net, "--lower-nn", "--diff=stats")
    with pytest.raises(mdsl.MdslError, match="--only goes with"):
        opt(net, "--lower-nn", "--diff=unified", "--only=x")


# History ----------------------------------------------------------------------------------------------------


def history(module: ModuleOp, kind: str) -> set[str]:
    return {op.location.history for op in module.walk() if op.name == kind and op.location}


def test_history_survives_cloning_outlining_and_inlining() -> None:
    text = layers(1).replace("func.func @main", "func.func @inner") + (
        "func.func @main(%x: tensor<1x8x6x6xf32>, %w: tensor<8x8x3x3xf32>) -> tensor<1x8x6x6xf32> {\n"
        "  %y = func.call @inner(%x, %w) : (tensor<1x8x6x6xf32>, tensor<8x8x3x3xf32>) -> tensor<1x8x6x6xf32>\n"
        "  return %y : tensor<1x8x6x6xf32>\n}\n"
    )
    module = mdsl.opt(mdsl.parse(text, "net.mir"), "inline,outline-ukernels").clone()
    found = history(module, "ukernel.dispatch") | history(module, "ukernel.func")
    assert any(h.startswith("net.mir:2:9 <- inline <- lower-nn <- ") for h in found)
    assert all(h.endswith(" <- outline-ukernels") for h in found)


def test_an_untouched_op_has_no_passes() -> None:
    module = mdsl.opt(mdsl.parse(CHAIN, "net.mir"), "canonicalize")
    assert history(module, "nn.relu") == {"net.mir:3:8"}


def test_every_op_that_a_pass_made_has_a_history() -> None:
    module = mdsl.opt(mdsl.parse(layers(2), "net.mir"), "vectorize", target="avx2")
    assert [op.name for op in module.walk() if op.location is None] in ([], ["builtin.module"])
    last: list[Op] = [op for op in module.walk() if op.name == "vector.fma"]
    assert last and all(op.location and op.location.passes[-1] == "vectorize" for op in last)


def test_history_is_printed_as_comments(net: str) -> None:
    shown = opt(net, "--lower-nn", "--history").stdout
    assert "// net.mir:3:9 <- lower-nn" in shown
    assert str(mdsl.parse(shown)) == opt(net, "--lower-nn").stdout.rstrip("\n")
