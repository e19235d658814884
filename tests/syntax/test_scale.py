"""Time and memory grow no faster than the text; what is nested too deeply is an error at its place."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

import mdsl
from mdsl.errors import MdslError
from mdsl.ir.verifier import verify
from mdsl.syntax.parser import parse
from mdsl.syntax.printer import print_module

T = "tensor<1xf32>"


def repeated(text: str, count: int, between: str = ", ") -> str:
    return between.join(text.replace("#", str(i)) for i in range(count))


def operands(n: int, between: str = ", ") -> str:
    types = repeated(T, n)
    return f"func.func @f(%a: {T}) {{\n%y = nn.concat {repeated('%a', n, between)} {{axis = 0}} : ({types}) -> tensor<{n}xf32>\nreturn\n}}"


def results(n: int) -> str:
    types = repeated(T, n)
    return (
        f"func.func @f(%a: {T}) {{\n{repeated('%r#', n)} = func.call @g(%a) : ({T}) -> ({types})\nreturn\n}}\n"
        f"func.func @g(%a: {T}) -> ({types}) {{\nreturn {repeated('%a', n)} : {types}\n}}"
    )


def wishes(n: int) -> str:
    """`n` names of one kind outside, and as many scopes inside in which two values want one of these."""
    outer = repeated("%x_# = arith.constant 1 : i64", n, "\n")
    inner = "scf.for %i = %c to %c step %c {\n%x = arith.constant 1 : i64\n%y = arith.constant 2 : i64\n}\n"
    return f"func.func @f(%c: index) {{\n{outer}\n{inner * n}return\n}}"


def attributes(text: str) -> Callable[[int], str]:
    return lambda n: (
        f"func.func @f() attributes {{x.a = {text.replace('...', repeated('1', n))}}} {{\nreturn\n}}"
    )


TEXTS: dict[str, Callable[[int], str]] = {
    "operands": operands,
    "operands on lines": lambda n: operands(n, " ,\n "),
    "results": results,
    "wishes": wishes,
    "symbols": lambda n: repeated("func.func @f#() {\nfunc.call @f0() : () -> ()\nreturn\n}", n, "\n"),
    "modules": lambda n: "module {\n}\n" * n,
    "dense": attributes("dense<[...]> : tensor<NxT>"),
    "array": attributes("array<i64: ...>"),
    "list": attributes("[...]"),
    "string": lambda n: attributes('"' + "a\\n\\22" * 10 * n + '"')(0),
    "aliases": lambda n: repeated("!t# = tensor<#xf32>", n, "\n"),
}


def seconds(text: str) -> float:
    start = time.process_time()
    module = parse(text)
    if text.count("%y = arith"):
        for value in (r for op in module.walk() for r in op.results if r.name == "y"):
            value.name = "x"
    assert len(print_module(module)) > 0 or not module.body.ops
    verify(module)
    hash(tuple(a for op in module.walk() for a in op.attributes.values()))
    return time.process_time() - start


@pytest.mark.parametrize("kind", TEXTS)
def test_time_grows_with_the_text(kind: str) -> None:
    """Four times the text takes four times as long; sixteen times if anything is compared with all others."""
    make = TEXTS[kind]
    small, large = (make(n).replace("NxT", f"{n}xi64") for n in (250, 1000))
    seconds(small)
    for last in (False, True):
        ratio = seconds(large) / max(seconds(small), 0.01)
        if ratio < 9:
            return
        assert not last, f"{ratio:.1f} times the time for four times the text"


SPLATS = """
import resource, mdsl
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from mdsl.syntax.printer import print_module
for type, one, other in (("f32", "0.0", "-0.0"), ("i1", "true", "false")):
    T = f"tensor<1000000x1000000x{type}>"
    text = f"func.func @f() -> ({T}, {T}) {{\\n%a = arith.constant dense<{one}> : {T}\\n%b = arith.constant dense<{other}> : {T}\\nreturn %a, %b : {T}, {T}\\n}}"
    module = mdsl.parse(text)
    a, b = (op.attributes["value"] for op in module.body.ops[0].body.ops[:2])
    c = mdsl.parse(text).body.ops[0].body.first.attributes["value"]
    assert a == c != b and hash(a) == hash(c)
    print_module(module, generic=True, data=True)
    assert print_module(mdsl.opt(module, "canonicalize")) == print_module(module)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_a_splat_costs_nothing() -> None:
    assert resource.RLIM_INFINITY  # the module exists
    done = subprocess.run(
        [sys.executable, "-c", SPLATS], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("module {\n" * 200 + "}" * 200, "200:8: error: regions are nested more than 100 deep"),
        ("module {\n" * 9000 + "}" * 9000, "9000:8: error: regions are nested more than 100 deep"),
        (f"module attributes {{x.a = {'[' * 200}{']' * 200}}} {{}}", "1:225: error: attributes are nested"),
        (f"module attributes {{x.a = {'{a = ' * 9000}1{'}' * 9000}}} {{}}", "nested too deeply"),
        (
            f"module attributes {{x.a = {'(' * 9000}() -> (){') -> ()' * 9000}}} {{}}",
            "1:9026: error: the text is nested",
        ),
        (
            f"module attributes {{x.a = dense<{'[' * 9000}1{']' * 9000}> : tensor<1xi8>}} {{}}",
            "nested too deeply",
        ),
        (f"%x = nn.relu {'(' * 9000}{')' * 9000}", "error: the text is nested too deeply"),
    ],
)
def test_nesting_has_a_limit(text: str, message: str) -> None:
    with pytest.raises(MdslError, match=message) as found:
        parse(text)
    assert len(str(found.value)) < 2000  # a line of the message is not the whole text


def test_what_may_be_nested_survives_the_way() -> None:
    for text in (
        "module {\n" * 99 + "}" * 99,
        f"module attributes {{x.a = {'[' * 99}{']' * 99}}} {{}}",
        f"module attributes {{x.a = {'(' * 99}() -> (){') -> ()' * 99}}} {{}}",
    ):
        module = mdsl.opt(text, "canonicalize")
        assert print_module(parse(print_module(module))) == print_module(module)
        assert print_module(module.clone(), generic=True) == print_module(module, generic=True)


def test_an_unknown_name_among_many_long_ones() -> None:
    text = (
        repeated(f"%{'x' * 2000}# = arith.constant 1 : i64", 500, "\n")
        + f"\n%q = arith.addi %{'x' * 1999}, %q : i64"
    )
    start = time.process_time()
    with pytest.raises(MdslError, match="is not defined"):
        parse(text)
    assert time.process_time() - start < 3


def test_aliases_of_aliases_have_a_budget() -> None:
    """Each line doubles what the one before stands for."""

    def text(count: int) -> str:
        lines = "".join(f"#a{i} = [#a{i - 1}, #a{i - 1}]\n" for i in range(1, count))
        return (
            f"#a0 = [1]\n{lines}module attributes {{x.a = #a{count - 1}, x.b = {{c = #a{count - 1}}}}} {{}}"
        )

    module = parse(text(10))
    assert str(parse(str(module))) == str(module)
    with pytest.raises(MdslError, match=r"with #a\d\d, the aliases stand for too long a text"):
        parse(text(60))


def test_a_long_alias_may_be_used_as_often_as_there_is_text() -> None:
    long = f"#a = dense<[{', '.join(['1'] * 2000)}]> : tensor<2000xi8>\n"
    parse(long + "module {\n" + "  module attributes {x.a = #a} {}\n" * 500 + "}")
