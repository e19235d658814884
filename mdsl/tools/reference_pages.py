"""The reference pages of docs/, made from the declarations: `python -m mdsl.tools.reference_pages`, or `make docs`.

    ops.md      every operation, with an example printed from docs/ops.mir
    opcodes.md  every opcode of the bytecode
    passes.md   every pass, with the diff that it makes of examples/passes/NAME.mir

The pages depend on nothing but the repository: the same on every machine, every time.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import partial
from importlib import import_module
from inspect import getdoc
from pathlib import Path

import mdsl
from mdsl.bytecode import semantics
from mdsl.bytecode.assemble import assemble
from mdsl.bytecode.disassemble import disassemble
from mdsl.bytecode.isa import OPCODES, Opcode, Operand
from mdsl.bytecode.module import TYPES
from mdsl.compiler.levels import level_of, plan
from mdsl.compiler.pipeline import parse_flag, run_passes
from mdsl.ir.core import Op
from mdsl.ir.declare import ANY, Field
from mdsl.ir.registry import DIALECTS, operations
from mdsl.passes import all_passes
from mdsl.passes.base import LEVELS, Context, Pass
from mdsl.passes.kernels.lower_vm import LowerVm
from mdsl.report.diff.forms import Form, written
from mdsl.report.diff.text import Style
from mdsl.report.diff.watching import Diffs
from mdsl.syntax.parser import parse, parse_file
from mdsl.syntax.printer import print_op
from mdsl.target.target import Target

ROOT = Path(mdsl.__file__).parents[1]
"""The repository."""

_LISTED = "examples/passes/lower-vm.mir"
"""The program whose bytecode opcodes.md shows."""

NOTICE = "<!-- Made by `make docs` from the declarations in mdsl/. Do not edit. -->"


def pages() -> dict[str, str]:
    """The text of each page, by its name in docs/."""
    made = {"ops.md": _ops(), "opcodes.md": _opcodes(), "passes.md": _passes()}
    return {name: "\n".join([NOTICE, "", *lines]).rstrip() + "\n" for name, lines in made.items()}


def write_pages() -> None:
    """Brings docs/ up to date."""
    for name, text in pages().items():
        (ROOT / "docs" / name).write_text(text)


# Operations -----------------------------------------------------------------------------------------------


def _ops() -> Iterator[str]:
    yield from ("# Operations", "")
    yield "Each op as its declaration in `mdsl/dialects/` has it; the examples are in [ops.mir](ops.mir)."
    yield "`mdsl ops NAME` shows the same in a terminal. The language around them: [language.md](language.md)."
    yield ""
    yield ", ".join(f"[{dialect}](#{dialect})" for dialect in DIALECTS)
    yield ""
    examples: dict[str, Op] = {}
    for root in parse_file(ROOT / "docs" / "ops.mir").body.ops:
        for op in root.walk():
            examples.setdefault(op.name, op)
    for dialect in DIALECTS:
        module = import_module(f"mdsl.dialects.{dialect}")
        yield from (f"## {dialect}", "", _sentence((module.__doc__ or "").partition(":")[2]), "")
        for name, declaration in operations().items():
            if name.split(".")[0] == dialect:
                yield from _op(declaration, examples[name])


def _op(declaration: type[Op], example: Op) -> Iterator[str]:
    yield from (f"### {declaration.name}", "", _prose(getdoc(declaration) or ""), "")
    yield from ("```mir", print_op(example), "```", "")
    order = ("operand", "attribute", "region", "result")
    rows = [_field(f) for f in sorted(declaration.fields, key=lambda f: order.index(f.kind))]
    if rows:
        yield from _table(["", "name", "", "default"], rows)
    if declaration.traits:
        yield from (f"Traits: {', '.join(sorted(declaration.traits))}.", "")


def _field(field: Field) -> list[str]:
    what = "" if field.kind == "region" else field.constraint.description
    if field.optional:
        what += ", optional"
    elif field.variadic:
        what = "any number" if field.constraint is ANY else f"any number, each {what}"
    return [
        field.kind,
        f"`{field.name}`",
        f"{what}; {field.doc}" if field.doc else what,
        _code(field.default),
    ]


# Opcodes --------------------------------------------------------------------------------------------------


def _opcodes() -> Iterator[str]:
    yield from ("# Opcodes", "")
    yield (
        "The instructions of the bytecode, from the table `OPCODES` in `mdsl/bytecode/isa.py`. `T`, `A` and `B` stand\n"
        "for element types: `addf.T` is `addf.f32`, `addf.f64` and so on. A register holds one 64-bit slot of a fixed\n"
        "type; a value of type `index` is in an `i64` register. An operand is a register that is read (its type is\n"
        "given), written (`-> type`) or both (`<-> type`), a number in the instruction, or a buffer: an input, an\n"
        "output, a constant or the arena. Loads and stores count in elements, the arguments of a dispatch in bytes.\n"
        "What the arithmetic gives, the ops of the same name say: [arith](ops.md#arith), [math](ops.md#math)."
    )
    yield from ("", f"`mdsl dis FILE.mbc` lists a program. This is [{_LISTED}](../{_LISTED}), compiled:", "")
    yield from ("```text", _listing(), "```", "")
    sections: dict[str, list[Opcode]] = {}
    for opcode in OPCODES.values():
        sections.setdefault(_section(opcode), []).append(opcode)
    for title, members in sections.items():
        yield from (f"## {title}", "")
        families: dict[str, list[Opcode]] = {}
        for opcode in members:
            families.setdefault(_family(opcode), []).append(opcode)
        yield from _table(
            ["opcode", "operands", "types", "meaning"], map(_opcode, families, families.values())
        )


def _listing() -> str:
    path = ROOT / _LISTED
    module = parse(path.read_text(), path.name)
    run_passes(module, [LowerVm()], Context(Target.parse("avx512")))
    return disassemble(assemble(module), kernels=False).rstrip("\n")


def _section(opcode: Opcode) -> str:
    if not _types(opcode):
        return "Addresses" if opcode.mnemonic == "lea" else "Control"
    if not isinstance(opcode.emit, partial) or opcode.emit.func is not semantics.compute:
        return "Registers and memory"
    return "Conversions" if len(_types(opcode)) == 2 else "Arithmetic"


def _types(opcode: Opcode) -> list[str]:
    """The element types that end the mnemonic."""
    return [word for word in opcode.mnemonic.split(".")[1:] if word in TYPES]


def _letters(opcode: Opcode) -> str:
    """What stands for its element types, one letter each."""
    return ("", "T", "AB")[len(_types(opcode))]


def _family(opcode: Opcode) -> str:
    """The mnemonic with letters for element types."""
    words = opcode.mnemonic.split(".")
    letters = _letters(opcode)
    return ".".join([*words[: len(words) - len(letters)], *letters])


def _opcode(family: str, members: list[Opcode]) -> list[str]:
    # An i1 or an i64 is often a condition or an address, whatever T is; another type shows what T stands for.
    shown = next((o for o in members if not {"i1", "i64"} & set(_types(o))), members[0])
    letters = dict(zip(_types(shown), _letters(shown), strict=True))
    operands = ", ".join(_operand(operand, letters) for operand in shown.operands)
    return [f"`{family}`", operands, _type_list([_types(o) for o in members]), shown.doc]


def _type_list(types: list[list[str]]) -> str:
    """`f32, f64`; of conversions `i8, i16 to f32, f64; ...`, operands that become the same types together."""
    if len(types[0]) < 2:
        return ", ".join(word for words in types for word in words)
    results: dict[str, list[str]] = {}
    for operand, result in types:
        results.setdefault(operand, []).append(result)
    operands: dict[str, list[str]] = {}
    for operand, found in results.items():
        operands.setdefault(", ".join(found), []).append(operand)
    return "; ".join(f"{', '.join(names)} to {found}" for found, names in operands.items())


def _operand(operand: Operand, letters: dict[str, str]) -> str:
    type = letters.get(operand.type, operand.type)
    forms = {
        "read": f": {type}",
        "write": f" -> {type}",
        "update": f" <-> {type}",
        "value": f" = number of {type}",
        "integer": " = number",
    }
    return f"`{operand.name}{forms.get(operand.kind, '')}`"


# Passes ---------------------------------------------------------------------------------------------------


def _passes() -> Iterator[str]:
    yield from ("# Passes", "")
    yield (
        "In the order of the standard pipeline. `mdsl opt` has a flag for each (`--tile=8x32`, a bare value is the first\n"
        "option) and runs them in the order given; `--pass-pipeline='tile{sizes=[8,32]},unroll-dispatch{factor=4}'` is\n"
        "the other way to write it. A pass works on a level, one of"
    )
    yield from (f"{', '.join(LEVELS)}; a program above it is lowered first, as a note on stderr says.", "")
    yield "What each does is shown on a small program. The diffs are for the target that their command names."
    yield ""
    rows = [
        [f"[{p.name}](#{p.name})", p.level or "any", (getdoc(p) or "").partition("\n")[0]]
        for p in all_passes()
    ]
    yield from _table(["pass", "level", ""], rows)
    for declaration in all_passes():
        yield from _pass(declaration)


def _pass(declaration: type[Pass]) -> Iterator[str]:
    yield from (f"## {declaration.name}", "", _prose(getdoc(declaration) or ""), "")
    rows = [
        [f"`{f.name.replace('_', '-')}`", _code(f.default), f.metadata["help"]] for f in fields(declaration)
    ]
    if rows:
        yield from _table(["option", "default", ""], rows)
    path = ROOT / "examples" / "passes" / f"{declaration.name}.mir"
    command = path.read_text().partition("\n")[0].removeprefix("// ")
    yield from ("```console", f"$ {command}", "```", "", "```diff", _diff(command), "```", "")


def _diff(command: str) -> str:
    """What `mdsl opt --diff` prints for `command`."""
    program, action, *words = shlex.split(command)
    assert (program, action, "--diff" in words) == ("mdsl", "opt", True), (
        f"not a command that shows a diff: {command}"
    )
    targets = [word.partition("=")[2] for word in words if word.startswith("--target=")]
    context = Context(Target.parse(targets[0] if targets else "host"))
    flags = [word for word in words[:-1] if word != "--diff" and not word.startswith("--target=")]
    module = parse_file(ROOT / words[-1])
    shown: list[str] = []
    diffs = Diffs(lambda diff: shown.append(written(diff, Form.STRUCTURAL, Style())))
    for lowering, step in plan([parse_flag(flag) for flag in flags], level_of(module))[0]:
        run_passes(module, lowering, context)
        run_passes(module, [step], context, hooks=[diffs])
    return "".join(shown).rstrip("\n")


# Markdown -------------------------------------------------------------------------------------------------


def _table(head: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(_cell(cell) for cell in row)} |"
    yield ""


def _cell(text: str) -> str:
    return _prose(text).replace("|", "\\|")


def _code(value: object) -> str:
    return "" if value is None else f"`{re.sub(r' : [if][0-9]+', '', str(value))}`"


def _prose(text: str) -> str:
    """Text whose marks mean themselves, except in backticks and in indented code."""
    return "\n".join(line if line.startswith("    ") else _escaped(line) for line in text.split("\n"))


def _escaped(line: str) -> str:
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(part if part.startswith("`") else re.sub(r"([<*_])", r"\\\1", part) for part in parts)


def _sentence(text: str) -> str:
    """A module's description, which follows its name and a colon."""
    text = _prose(text.strip())
    return text[:1].upper() + text[1:]


if __name__ == "__main__":
    write_pages()
