"""autodiff: what may be differentiated for what, how results are called, what is refused, second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import mdsl
from mdsl import cli
from mdsl.passes.base import functions
from mdsl.reference import run

NET = """
func.func @main(%x: tensor<2x3xf64> {mdsl.name = "input:0"}, %labels: tensor<2xi64>) -> (tensor<f64>, tensor<2xi64>) {
  %w = arith.constant dense<[[0.5, 1.0], [2.0, -1.0], [0.25, 3.0]]> : tensor<3x2xf64>
  %h = nn.matmul %x, %w : (tensor<2x3xf64>, tensor<3x2xf64>) -> tensor<2x2xf64>
  %y = nn.tanh %h : (tensor<2x2xf64>) -> tensor<2x2xf64>
  %at = nn.argmax %y {axis = 1, keepdims = false} : (tensor<2x2xf64>) -> tensor<2xi64>
  %loss = nn.reduce %y {kind = "sum", keepdims = false} : (tensor<2x2xf64>) -> tensor<f64>
  return %loss, %at : tensor<f64>, tensor<2xi64>
}"""
X = np.array([[0.1, -0.2, 0.3], [0.4, 0.5, -0.6]])
W = np.array([[0.5, 1], [2, -1], [0.25, 3]])
LABELS = np.zeros(2, np.int64)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs `mdsl opt` and gives its exit code and what it says on stderr."""

    def run_command(*args: object) -> tuple[int, str]:
        code = cli.command(["opt", *map(str, args)])
        return code, capsys.readouterr().err

    return run_command


def results(module: Any, *inputs: np.ndarray) -> dict[str, np.ndarray]:
    """What a program computes, by the names of its results."""
    names = functions(module)[0].result_names()
    return dict(zip(names, run(module, inputs), strict=True))


def test_arguments_constants_and_values_between() -> None:
    found = results(mdsl.grad(NET, ["input:0", "w", "%h"]), X, LABELS)
    assert list(found) == ["loss", "at", "grad_input:0", "grad_w", "grad_h"]
    slope = 1 - np.tanh(X @ W) ** 2
    np.testing.assert_allclose(found["grad_h"], slope)
    np.testing.assert_allclose(found["grad_w"], X.T @ slope)
    np.testing.assert_allclose(found["grad_input:0"], slope @ W.T)


@pytest.mark.parametrize("wrt", [(), 0, "0", "%input_0", ["input:0"]])
def test_an_argument_by_number_and_names_and_all_of_floats(wrt: Any) -> None:
    found = results(mdsl.grad(NET, wrt), X, LABELS)
    assert list(found) == ["loss", "at", "grad_input:0"]


def test_a_constant_by_the_name_of_its_resource(tmp_path: Path) -> None:
    save_file({"layer1.weight": W}, tmp_path / "net.safetensors")
    begin, _, end = NET.partition("dense<[[0.5, 1.0], [2.0, -1.0], [0.25, 3.0]]>")
    (tmp_path / "net.mir").write_text(f'{begin}dense_resource<"layer1.weight">{end}')
    module = mdsl.grad(tmp_path / "net.mir", "layer1.weight")
    np.testing.assert_allclose(results(module, X, LABELS)["grad_w"], X.T @ (1 - np.tanh(X @ W) ** 2))


def test_parameters_are_what_is_differentiated_for_unless_told() -> None:
    text = NET.replace(
        "%labels: tensor<2xi64>)", "%labels: tensor<2xi64>, %b: tensor<2xf64> {mdsl.parameter})"
    )
    text = text.replace("nn.tanh %h :", "nn.add %h, %b :").replace(
        "(tensor<2x2xf64>) -> tensor<2x2xf64>", "(tensor<2x2xf64>, tensor<2xf64>) -> tensor<2x2xf64>"
    )
    found = results(mdsl.grad(text), X, LABELS, np.zeros(2))
    assert found.keys() == {"loss", "at", "grad_b"} and found["grad_b"].tolist() == [2, 2]


def test_what_the_adjoint_makes_bears_place_and_name() -> None:
    module = mdsl.grad(NET, "w")
    (function,) = functions(module)
    made = [op for op in function.body.ops if op.location and "autodiff" in op.location.passes]
    places = {op.results[0].name: op.location.line for op in made if op.location and op.results}
    assert places["grad_y"] == 7 and places["grad_h"] == 5 and places["grad_w"] == 4
    assert [op.name for op in function.body.ops if op not in made] == [
        "arith.constant", "nn.matmul", "nn.tanh", "nn.argmax", "nn.reduce", "func.return"
    ]  # fmt: skip


def test_only_what_is_wanted_is_computed() -> None:
    text = str(mdsl.grad(NET, "input:0"))
    assert text.count("nn.matmul") == 2 and "grad_w" not in text


SQUARES = """
func.func @main(%x: tensor<3xf64>, %a: tensor<3x3xf64>) -> tensor<f64> {
  %ax = nn.matmul %a, %x : (tensor<3x3xf64>, tensor<3xf64>) -> tensor<3xf64>
  %s = nn.sin %ax : (tensor<3xf64>) -> tensor<3xf64>
  %y = nn.matmul %x, %s : (tensor<3xf64>, tensor<3xf64>) -> tensor<f64>
  return %y : tensor<f64>
}"""


def test_second_derivatives() -> None:
    """The Hessian times a vector, against differences of gradients."""
    random = np.random.default_rng(0)
    x, a, v = random.normal(size=3), random.normal(size=(3, 3)), random.normal(size=3)
    first = mdsl.grad(SQUARES, "x")
    second = mdsl.grad(first, "x", loss=1, seed="argument")
    found = results(second, x, a, v)
    assert list(found) == ["y", "grad_x", "grad_x_1"]
    ahead, behind = (results(first, x + s * 1e-6 * v, a)["grad_x"] for s in (1, -1))
    np.testing.assert_allclose(found["grad_x_1"], (ahead - behind) / 2e-6, rtol=1e-6)


def test_a_loss_of_several_numbers() -> None:
    text = "func.func @main(%x: tensor<2xf64>) -> tensor<2xf64> {\n  %y = nn.mul %x, %x : (tensor<2xf64>, tensor<2xf64>) -> tensor<2xf64>\n  return %y : tensor<2xf64>\n}"
    with pytest.raises(mdsl.MdslError, match="the loss must be one number, %y is tensor<2xf64>"):
        mdsl.grad(text)
    x, seed = np.array([1.0, 2]), np.array([10.0, -1])
    assert results(mdsl.grad(text, seed="ones"), x)["grad_x"].tolist() == [2, 4]
    assert results(mdsl.grad(text, seed="argument"), x, seed)["grad_x"].tolist() == [20, -4]


def test_calls_are_inlined_and_a_function_is_chosen() -> None:
    text = """
func.func @square(%v: tensor<f64>) -> tensor<f64> {
  %y = nn.mul %v, %v : (tensor<f64>, tensor<f64>) -> tensor<f64>
  return %y : tensor<f64>
}
func.func @main(%x: tensor<f64>) -> tensor<f64> {
  %a = func.call @square(%x) : (tensor<f64>) -> tensor<f64>
  %b = func.call @square(%a) : (tensor<f64>) -> tensor<f64>
  return %b : tensor<f64>
}"""
    assert run(mdsl.grad(text), [np.float64(3)])[1] == 4 * 27
    assert run(mdsl.grad(text, function="square"), [np.float64(3)], "square")[1] == 6


def test_a_value_in_a_formula() -> None:
    """`decompose` makes the ops of a normalisation: what is asked for among these is not led past."""
    x, c = "tensor<4x2xf64>", "tensor<2xf64>"
    text = f"""
func.func @main(%x: {x}, %a: {c}, %b: {c}) -> {x} {{
  %y, %mean, %variance = nn.batch_norm_train %x, %a, %b, %b, %a : ({x}, {c}, {c}, {c}, {c}) -> ({x}, {c}, {c})
  return %y : {x}
}}"""
    arrays = [X.reshape(3, 2)[[0, 1, 2, 0]], np.array([2.0, 3.0]), np.zeros(2)]
    found = results(mdsl.grad(text, ["y_sub"], seed="ones"), *arrays)["grad_y_sub"]
    np.testing.assert_allclose(found[0], [2, 3] / np.sqrt(arrays[0].var(axis=0) + 1e-5))


def test_losses_and_training_forms() -> None:
    text = """
func.func @main(%logits: tensor<4x3xf64>, %labels: tensor<4xi64>) -> tensor<f64> {
  %loss = nn.cross_entropy %logits, %labels : (tensor<4x3xf64>, tensor<4xi64>) -> tensor<f64>
  return %loss : tensor<f64>
}"""
    logits, labels = np.random.default_rng(0).normal(size=(4, 3)), np.array([0, 2, 1, 1])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = results(mdsl.grad(text), logits, labels)["grad_logits"]
    np.testing.assert_allclose(found, (p - np.eye(3)[labels]) / 4)


def test_what_the_loss_does_not_depend_on_has_a_gradient_of_zero() -> None:
    text = (
        "func.func @main(%x: tensor<2xf32>, %y: tensor<f32>) -> tensor<f32> {\n  return %y : tensor<f32>\n}"
    )
    found = run(mdsl.grad(text), [np.ones(2, np.float32), np.float32(3)])
    assert found[1].tolist() == [0, 0] and found[2] == 1


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"wrt": "input0"}, "@main has no value 'input0'; did you mean 'input_0'?"),
    ({"wrt": "labels"}, "%labels is tensor<2xi64>: only tensors of floats have gradients"),
    ({"loss": 2}, "@main has 2 results: there is no result 2"),
    ({"loss": 1}, "%at is tensor<2xi64>: only tensors of floats have gradients"),
    ({"wrt": [0, "input:0"]}, "wrt names a value twice"),
    ({"function": "mian"}, "there is no function @mian; did you mean 'main'?"),
    ({"seed": "two"}, "seed must be 'ones' or 'argument', got 'two'"),
    ({"loss": -1}, "loss must be a result's number, from 0, got -1"),
]


@pytest.mark.parametrize("arguments, message", REFUSED)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(mdsl.MdslError) as caught:
        mdsl.grad(NET, **arguments)
    assert message in str(caught.value)


def test_an_op_without_a_gradient_is_refused_only_if_the_way_leads_through_it(
    command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    path = tmp_path / "net.mir"
    path.write_text("""
func.func @main(%x: tensor<4xf32>) -> tensor<f32> {
  %at = nn.argmax %x {keepdims = false} : (tensor<4xf32>) -> tensor<i64>
  %loss = nn.cast %at : (tensor<i64>) -> tensor<f32>
  return %loss : tensor<f32>
}""")
    code, said = command("--autodiff=x", path)
    assert code == 1 and said.startswith(
        f"{path}:3:9: error: pass 'autodiff': 'nn.argmax': has no gradient, and the way from %x to the loss leads through it\n"
        "  %at = nn.argmax"
    )
    beside = (
        path.read_text()
        .replace("%loss = nn.cast %at", "%f = nn.cast %at")
        .replace(
            "  return",
            """  %s = nn.reduce %x {kind = "sum", keepdims = false} : (tensor<4xf32>) -> tensor<f32>
  %loss = nn.mul %f, %s : (tensor<f32>, tensor<f32>) -> tensor<f32>
  return""",
        )
    )
    path.write_text(beside)
    assert command("--autodiff=x", path)[0] == 0


def test_open_sizes_are_refused(command: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    path = tmp_path / "net.mir"
    path.write_text("""
func.func @main(%x: tensor<?x3xf32>, %w: tensor<3xf32>) -> tensor<f32> {
  %y = nn.mul %x, %w : (tensor<?x3xf32>, tensor<3xf32>) -> tensor<?x3xf32>
  %loss = nn.reduce %y {kind = "sum", keepdims = false} : (tensor<?x3xf32>) -> tensor<f32>
  return %loss : tensor<f32>
}""")
    assert (
        "%x is tensor<?x3xf32>, with a dimension of unknown size; --bind" in command("--autodiff=x", path)[1]
    )
    assert (
        "'nn.reduce': tensor<?x3xf32> has a dimension of unknown size; --bind"
        in command("--autodiff=w", path)[1]
    )
    assert command("--bind=x.0=2", "--autodiff=w", path)[0] == 0


def test_remarks(command: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    path = tmp_path / "net.mir"
    path.write_text(NET)
    told = command("--autodiff={wrt=[w,labelled]}", "--remarks", "--remarks-missed", path)[1]
    assert "has no value 'labelled'" in told
    told = command("--autodiff=w", "--remarks", path)[1]
    assert "[autodiff] %h hands the gradient of its result on to %w" in told
    assert "[autodiff] @main also returns %grad_w, the gradient of %loss for %w" in told
