"""Random programs on views: parts of memories filled, copied and computed with, on purpose also parts that overlap,
directly and by kernels that are given one memory twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from writing import LineWriter

SIZE = 12
MEMORY = "memref<12xf32>"
PART = "memref<4xf32, strided<[1], offset: ?>>"


def generic(left: str, right: str, out: str, types: str, result: str, backwards: bool = False) -> str:
    """out = (left + right) / 2, `left` read from its end if it is backwards."""
    places = ["3 - i" if backwards else "i", "i", "i"]
    maps = ", ".join(f"affine_map<(i) -> ({place})>" for place in places)
    return (
        f'linalg.generic {{indexing_maps = [{maps}], iterator_types = ["parallel"]}} ins({left}, {right} : {types})'
        f""" outs({out} : {result}) {{
  ^bb0(%l: f32, %r: f32, %e: f32):
    %s = arith.addf %l, %r : f32
    %h = arith.mulf %s, %half : f32
    linalg.yield %h : f32
  }}"""
    )


KERNELS = f"""
ukernel.func @spread(%a: {PART}, %b: {PART}, %o: {PART}) {{
  %two = arith.constant 2.0 : f32
  %half = arith.constant 0.5 : f32
  %m = memref.alloc() : memref<4xf32>
  linalg.fill ins(%two : f32) outs(%b : {PART})
  linalg.copy ins(%a : {PART}) outs(%m : memref<4xf32>)
  linalg.fill ins(%two : f32) outs(%o : {PART})
  {generic("%m", "%b", "%m", f"memref<4xf32>, {PART}", "memref<4xf32>")}
  {generic("%a", "%m", "%o", f"{PART}, memref<4xf32>", PART, True)}
  ukernel.return
}}
"""


def views(random: Random, statements: int = 9) -> str:
    """A program of writes to overlapping parts of a few memories."""
    return Writer(random).program(statements)


@dataclass
class Writer(LineWriter):
    memories: list[str] = field(default_factory=list)

    def program(self, statements: int) -> str:
        self.lines += [f"  %c{n} = arith.constant {n} : index" for n in range(9)]
        self.lines += ["  %nine = arith.constant 9.0 : f32", "  %half = arith.constant 0.5 : f32"]
        self.memories = ["%y", "%z"]
        for memory in self.memories:
            self.line(f"memref.copy %x, {memory} : {MEMORY} to {MEMORY}")
        for _ in range(self.random.randint(1, 2)):
            self.memories.append(self.let(f"memref.alloc() : {MEMORY}", "m"))
            self.line(f"memref.copy %x, {self.memories[-1]} : {MEMORY} to {MEMORY}")
        self.statements(self.random.randint(2, statements))
        body = "\n".join(self.lines)
        outputs = f"%y: {MEMORY} {{mdsl.output}}, %z: {MEMORY} {{mdsl.output}}"
        return f"func.func @main(%x: {MEMORY}, {outputs}) {{\n{body}\n  func.return\n}}\n{KERNELS}"

    def statements(self, count: int) -> None:
        kinds = [self.fill, self.copy, self.add, self.dispatch]
        for _ in range(count):
            self.random.choice([*kinds, self.loop] if self.depth < 3 else kinds)()

    def part(self, memory: str | None = None) -> str:
        """Four neighbours somewhere in a memory."""
        memory = memory or self.random.choice(self.memories)
        offset = self.random.choice([*self.counters, "%c0", "%c1", "%c2", "%c4", "%c8"])
        return self.let(f"memref.subview {memory}[{offset}] [4] [1] : {MEMORY} to {PART}", "part")

    def fill(self) -> None:
        self.line(f"linalg.fill ins(%nine : f32) outs({self.part()} : {PART})")

    def copy(self) -> None:
        self.line(f"memref.copy {self.part()}, {self.part()} : {PART} to {PART}")

    def add(self) -> None:
        """What it reads may be what it overwrites, element by element or shifted or backwards."""
        out = self.part()
        left = out if self.random.random() < 0.4 else self.part()
        backwards = self.random.random() < 0.3
        self.line(generic(left, self.part(), out, f"{PART}, {PART}", PART, backwards))

    def dispatch(self) -> None:
        a, b, o = self.part(), self.part(), self.part()
        self.line(f"ukernel.dispatch @spread({a}, {b}, {o}) {{outs = 2}} : ({PART}, {PART}, {PART})")

    def loop(self) -> None:
        self.counter += 1
        i = f"%i{self.counter}"
        trips = self.random.choice(["%c1", "%c3", "%c8"])
        self.line(f"scf.for {i} = %c0 to {trips} step %c1 {{")
        self.depth += 1
        self.counters.append(i)
        self.statements(self.random.randint(1, 3))
        self.counters.pop()
        self.depth -= 1
        self.line("}")
