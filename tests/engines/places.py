"""Random programs about places: parts of tensors read, overwritten and put elsewhere while older versions are still
read, through branches, selections and loops that swap what they carry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from writing import LineWriter

SIZE = 12
WHOLE, ROWS = "tensor<12xf32>", "tensor<3x4xf32>"


def places(random: Random, statements: int = 9) -> str:
    """A program of versions of a few tensors."""
    return Writer(random).program(statements)


@dataclass
class Writer(LineWriter):
    tensors: list[str] = field(default_factory=list)
    parts: list[tuple[str, str, str]] = field(default_factory=list)  # name, place and type

    def program(self, statements: int) -> str:
        self.tensors = ["%x", "%y"]
        self.lines += [f"  %c{n} = arith.constant {n} : index" for n in range(5)]
        self.lines += ["  %nine = arith.constant 9.0 : f32", "  %p = tensor.extract %b[%c0] : tensor<1xi1>"]
        self.statements(self.random.randint(2, statements))
        results = [self.tensors[-1], *(self.pick() for _ in range(self.random.randint(0, 3)))]
        types = ", ".join(WHOLE for _ in results)
        end = f"  func.return {', '.join(results)} : {types}"
        body = "\n".join(self.lines)
        arguments = f"%x: {WHOLE}, %y: {WHOLE}, %b: tensor<1xi1>"
        return f"func.func @main({arguments}) -> ({types}) {{\n{body}\n{end}\n}}\n"

    def statements(self, count: int) -> None:
        for _ in range(count):
            self.random.choice(STATEMENTS if self.depth < 3 else PLAIN)(self)

    # Text -------------------------------------------------------------------------------------------------

    def pick(self) -> str:
        """A tensor, a recent one more often."""
        return self.random.choice(self.tensors[-3:] if self.random.random() < 0.7 else self.tensors)

    def keep(self, name: str) -> None:
        self.tensors.append(name)

    def part(self) -> tuple[str, str]:
        """Offsets, sizes and strides, and the type of the part."""
        size, step = self.random.randint(1, 6), self.random.choice([1, 1, 1, 2])
        last = SIZE - 1 - (size - 1) * step
        offset = str(self.random.randint(0, last))
        if last >= 4 and self.random.random() < 0.5:
            offset = self.random.choice([*self.counters, "%c2", "%c4"])
        return f"[{offset}] [{size}] [{step}]", f"tensor<{size}xf32>"

    # Statements -------------------------------------------------------------------------------------------

    def fill(self) -> None:
        self.keep(self.let(f"linalg.fill ins(%nine : f32) outs({self.pick()} : {WHOLE}) -> {WHOLE}"))

    def arithmetic(self) -> None:
        op = self.random.choice(["addf", "subf", "maximumf"])
        self.keep(self.let(f"arith.{op} {self.pick()}, {self.pick()} : {WHOLE}"))

    def moved(self) -> None:
        """A part of one tensor, perhaps changed, put into another one or into the same."""
        (place, type), (to, _) = self.part(), self.part()
        source = self.pick()
        moved = self.let(f"tensor.extract_slice {source}{place} : {WHOLE} to {type}", "part")
        self.parts.append((moved, place, type))
        if self.random.random() < 0.6:
            change = self.random.choice(
                [
                    f"linalg.fill ins(%nine : f32) outs({moved} : {type}) -> {type}",
                    f"arith.negf {moved} : {type}",
                ]
            )
            moved = self.let(change, "part")
        dest = source if self.random.random() < 0.5 else self.pick()
        if self.random.random() < 0.5 or f" [{type[7:-4]}] " not in to:
            to = place
        self.keep(self.let(f"tensor.insert_slice {moved} into {dest}{to} : {type} into {WHOLE}"))

    def rewritten(self) -> None:
        """A tensor of which one part is read later and another one, which may overlap it, is written in place."""
        whole = self.let(f"arith.negf {self.pick()} : {WHOLE}")
        for _ in range(self.random.randint(1, 2)):
            (kept, kept_type), (place, type) = self.part(), self.part()
            kept_part = self.let(f"tensor.extract_slice {whole}{kept} : {WHOLE} to {kept_type}", "kept")
            self.parts.append((kept_part, kept, kept_type))
            part = self.let(f"tensor.extract_slice {whole}{place} : {WHOLE} to {type}", "part")
            part = self.let(f"linalg.fill ins(%nine : f32) outs({part} : {type}) -> {type}", "part")
            whole = self.let(f"tensor.insert_slice {part} into {whole}{place} : {type} into {WHOLE}")
        self.keep(whole)

    def late(self) -> None:
        """A part that was taken some time ago."""
        if self.parts:
            part, place, type = self.random.choice(self.parts)
            self.keep(self.let(f"tensor.insert_slice {part} into {self.pick()}{place} : {type} into {WHOLE}"))

    def element(self) -> None:
        at = self.random.choice(["%c0", "%c3", *self.counters])
        number = self.let(f"tensor.extract {self.pick()}[{at}] : {WHOLE}", "n")
        at = self.random.choice(["%c1", "%c4", *self.counters])
        self.keep(self.let(f"tensor.insert {number} into {self.pick()}[{at}] : {WHOLE}"))

    def reshaped(self) -> None:
        """Rows of another shape, one of them overwritten."""
        rows = self.let(
            f"tensor.expand_shape {self.pick()} [[0, 1]] output_shape [3, 4] : {WHOLE} into {ROWS}", "rows"
        )
        line = self.let(f"tensor.extract_slice {rows}[1, 0] [1, 4] [1, 1] : {ROWS} to tensor<4xf32>", "row")
        at = self.random.randint(0, 2)
        mixed = self.let(
            f"tensor.insert_slice {line} into {rows}[{at}, 0] [1, 4] [1, 1] : tensor<4xf32> into {ROWS}",
            "rows",
        )
        self.keep(self.let(f"tensor.collapse_shape {mixed} [[0, 1]] : {ROWS} into {WHOLE}"))

    def selection(self) -> None:
        self.keep(self.let(f"arith.select %p, {self.pick()}, {self.pick()} : {WHOLE}"))

    # Structures -------------------------------------------------------------------------------------------

    def block(self, ends: int, word: str = "scf.yield") -> None:
        """Statements, and an end that hands on `ends` tensors; what they made is forgotten."""
        known, parts = len(self.tensors), len(self.parts)
        self.depth += 1
        self.statements(self.random.randint(0, 3))
        self.line(f"{word} {', '.join(self.pick() for _ in range(ends))} : {', '.join([WHOLE] * ends)}")
        self.depth -= 1
        del self.tensors[known:], self.parts[parts:]

    def results(self, count: int) -> list[str]:
        self.counter += 1
        return [f"%r{self.counter}_{n}" for n in range(count)]

    def branch(self) -> None:
        count = self.random.randint(1, 2)
        names = self.results(count)
        self.line(f"{', '.join(names)} = scf.if %p -> ({', '.join([WHOLE] * count)}) {{")
        self.block(count)
        self.line("} else {")
        self.block(count)
        self.line("}")
        self.tensors += names

    def loop(self) -> None:
        count = self.random.randint(1, 3)
        names, inits = self.results(count), [self.pick() for _ in range(count)]
        carried = [f"%u{self.counter}_{n}" for n in range(count)]
        pairs = ", ".join(f"{a} = {b}" for a, b in zip(carried, inits, strict=True))
        trips = self.random.choice(["%c1", "%c3", "%c4", "%c0"])
        i = f"%i{self.counter}"
        types = ", ".join([WHOLE] * count)
        self.line(
            f"{', '.join(names)} = scf.for {i} = %c0 to {trips} step %c1 iter_args({pairs}) -> ({types}) {{"
        )
        known = len(self.tensors)
        self.tensors += carried
        self.counters.append(i)
        self.block(count)
        self.counters.pop()
        self.line("}")
        del self.tensors[known:]
        self.tensors += names

    def parallel(self) -> None:
        """Parts of a shared output, made of the same or another part of something."""
        name, source, init = self.results(1)[0], self.pick(), self.pick()
        i, shared, four = f"%i{self.counter}", f"%s{self.counter}", "tensor<4xf32>"
        self.line(
            f"{name} = scf.forall ({i}) = (0) to (12) step (4) shared_outs({shared} = {init}) -> ({WHOLE}) {{"
        )
        self.depth += 1
        read = self.random.choice([source, shared, init])
        at = self.random.choice([i, "0", "4", "8"])
        part = self.let(f"tensor.extract_slice {read}[{at}] [4] [1] : {WHOLE} to {four}", "part")
        if self.random.random() < 0.5:
            part = self.let(f"arith.negf {part} : {four}", "part")
        self.line("scf.forall.in_parallel {")
        self.line(f"  tensor.parallel_insert_slice {part} into {shared}[{i}] [4] [1] : {four} into {WHOLE}")
        self.line("}")
        self.depth -= 1
        self.line("}")
        self.keep(name)


PLAIN: list[Callable[[Writer], None]] = [
    Writer.fill,
    Writer.arithmetic,
    Writer.moved,
    Writer.moved,
    Writer.rewritten,
    Writer.rewritten,
    Writer.late,
    Writer.late,
    Writer.element,
    Writer.reshaped,
    Writer.selection,
]
STATEMENTS = [*PLAIN, Writer.branch, Writer.loop, Writer.loop, Writer.parallel]
