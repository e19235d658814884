"""Random programs on memory: scf.for, scf.if, scf.forall around scalar arithmetic, loads and stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from loop_scopes import LIMIT, Counter, Memory, Scalar, Scope

FLOATS = ("f32", "f64")
INTS = ("i32", "i64")


def loops(random: Random, statements: int = 7) -> str:
    """A program of loops over memory."""
    return Writer(random).program(statements)


@dataclass
class Writer:
    random: Random
    lines: list[str] = field(default_factory=list)
    memories: list[Memory] = field(default_factory=list)
    counter: int = 0
    depth: int = 1
    place: tuple[Memory, list[str]] | None = None  # inside a forall: the memory and element that it may write

    def name(self, hint: str) -> str:
        self.counter += 1
        return f"%{hint}{self.counter}"

    def line(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)

    def let(self, hint: str, code: str) -> str:
        name = self.name(hint)
        self.line(f"{name} = {code}")
        return name

    def chance(self, percent: int) -> bool:
        return self.random.randrange(100) < percent

    # The program ------------------------------------------------------------------------------------------

    def program(self, statements: int) -> str:
        inputs = [self.memory("x", True) for _ in range(self.random.randint(1, 2))]
        outputs = [self.memory("y") for _ in range(self.random.randint(1, 2))]
        self.memories = [*inputs, *outputs]
        for memory in outputs:
            self.fill(memory)
        for _ in range(self.random.randint(0, 2)):
            memory = self.memory("local")
            self.line(f"{memory.name} = memref.alloc() : {memory.type}")
            self.fill(memory)
            self.memories.append(memory)
        self.block(Scope(), self.random.randint(1, statements))
        arguments = [f"{m.name}: {m.type}" for m in inputs] + [
            f"{m.name}: {m.type} {{mdsl.output}}" for m in outputs
        ]
        body = "\n".join(self.lines)
        return f"func.func @main({', '.join(arguments)}) {{\n{body}\n  func.return\n}}\n"

    def memory(self, hint: str, constant: bool = False) -> Memory:
        shape = tuple(
            self.random.choice([1, 2, 3, 4, 7, 8])
            for _ in range(self.random.randint(0 if self.chance(10) else 1, 3))
        )
        return Memory(self.name(hint), shape, self.random.choice([*FLOATS, *INTS, "f32", "f32"]), constant)

    def fill(self, memory: Memory) -> None:
        """Every element gets a number: memory that nothing wrote holds anything."""
        scope = Scope()
        indices = [self.open_for(0, extent, 1, scope) for extent in memory.shape]
        self.store(memory, [i.name for i in indices], self.value(scope, memory.dtype))
        for _ in indices:
            self.close()

    def block(self, scope: Scope, statements: int) -> None:
        for _ in range(statements):
            self.random.choice(STATEMENTS)(self, scope)

    # Loops ------------------------------------------------------------------------------------------------

    def index(self, number: int) -> str:
        return self.let("c", f"arith.constant {number} : index")

    def open_for(self, low: int, high: int, step: int, scope: Scope) -> Counter:
        bounds = [self.index(n) for n in (low, high, step)]
        counter = Counter(self.name("i"), max(high - 1, 0))
        self.line(f"scf.for {counter.name} = {bounds[0]} to {bounds[1]} step {bounds[2]} {{")
        self.depth += 1
        scope.counters.append(counter)
        return counter

    def close(self) -> None:
        self.depth -= 1
        self.line("}")

    def range(self) -> tuple[int, int, int]:
        low, high = self.random.choice([0, 0, 0, 1]), self.random.choice([0, 1, 2, 3, 4, 7])
        return low, high, self.random.choice([1, 1, 1, 2, 3])

    def plain_loop(self, scope: Scope) -> None:
        if self.depth > 3:
            return
        inner = scope.inner()
        self.open_for(*self.range(), inner)
        self.block(inner, self.random.randint(1, 3))
        self.close()

    def carrying_loop(self, scope: Scope) -> None:
        """A loop that carries one or two numbers."""
        if self.depth > 3:
            return
        low, high, step = self.range()
        starts = [
            self.value(scope, self.random.choice([*FLOATS, *INTS])) for _ in range(self.random.randint(1, 2))
        ]
        starts = [self.clamped(s) for s in starts]
        bounds = [self.index(n) for n in (low, high, step)]
        if scope.counters and self.chance(30):  # a bound that varies
            bounds[1] = self.let(
                "n", f"arith.addi {self.random.choice(scope.counters).name}, {self.index(1)} : index"
            )
            high = 9
        counter = Counter(self.name("i"), max(high - 1, 0))
        carried = [Scalar(self.name("acc"), s.dtype) for s in starts]
        results = [Scalar(self.name("r"), s.dtype) for s in starts]
        types = ", ".join(s.dtype for s in starts)
        inits = ", ".join(f"{c.name} = {s.name}" for c, s in zip(carried, starts, strict=True))
        head = f"scf.for {counter.name} = {bounds[0]} to {bounds[1]} step {bounds[2]} iter_args({inits}) -> ({types})"
        self.line(f"{', '.join(r.name for r in results)} = {head} {{")
        self.depth += 1
        inner = Scope([*scope.scalars, *carried], [*scope.counters, counter])
        self.block(inner, self.random.randint(0, 2))
        nexts = [self.clamped(self.arithmetic(inner, s.dtype)) for s in starts]
        if len({s.dtype for s in starts}) == 1 and self.chance(30):
            nexts = [*carried[1:], nexts[0]]  # a rotation: carried values change places
        self.line(f"scf.yield {', '.join(n.name for n in nexts)} : {types}")
        self.close()
        scope.scalars += results

    def forall(self, scope: Scope) -> None:
        """A parallel loop, whose body writes its own element of one memory and reads others."""
        targets = [m for m in self.memories if not m.constant and m.shape]
        if self.place or not targets or self.depth > 2:
            return
        target = self.random.choice(targets)
        names = [self.name("p") for _ in target.shape]
        lows = [self.random.choice([0, 0, 0, 1]) for _ in target.shape]
        steps = [self.random.choice([1, 1, 1, 2, 3]) for _ in target.shape]
        triple = [f"({', '.join(map(str, t))})" for t in (lows, target.shape, steps)]
        self.line(f"scf.forall ({', '.join(names)}) = {triple[0]} to {triple[1]} step {triple[2]} {{")
        self.depth += 1
        self.place = (target, names)
        inner = scope.inner()
        inner.counters += [Counter(n, extent - 1) for n, extent in zip(names, target.shape, strict=True)]
        self.block(inner, self.random.randint(0, 2))
        self.store(target, names, self.value(inner, target.dtype))
        self.place = None
        self.close()

    def branch(self, scope: Scope) -> None:
        if self.depth > 4:
            return
        condition = self.condition(scope)
        if self.chance(50):
            self.line(f"scf.if {condition} {{")
            self.indented(scope, 2)
            if self.chance(50):
                self.depth -= 1
                self.line("} else {")
                self.indented(scope, 2)
            self.close()
            return
        dtype = self.random.choice([*FLOATS, *INTS])
        result = Scalar(self.name("picked"), dtype)
        self.line(f"{result.name} = scf.if {condition} -> ({dtype}) {{")
        self.yielding(scope, dtype)
        self.line("} else {")
        self.yielding(scope, dtype)
        self.line("}")
        scope.scalars.append(result)

    def indented(self, scope: Scope, statements: int) -> None:
        self.depth += 1
        self.block(scope.inner(), self.random.randint(1, statements))

    def yielding(self, scope: Scope, dtype: str) -> None:
        self.depth += 1
        inner = scope.inner()
        self.block(inner, self.random.randint(0, 1))
        value = self.clamped(self.value(inner, dtype))
        self.line(f"scf.yield {value.name} : {dtype}")
        self.depth -= 1

    # Memory -----------------------------------------------------------------------------------------------

    def indices(self, memory: Memory, scope: Scope) -> list[str]:
        return [self.subscript(extent, scope) for extent in memory.shape]

    def subscript(self, extent: int, scope: Scope) -> str:
        """An index below `extent`: a counter, a constant, an affine expression, or data between bounds."""
        counters = [c for c in scope.counters if c.last < extent]
        if counters and self.chance(60):
            counter = self.random.choice(counters)
            room = extent - 1 - counter.last
            if self.chance(70):
                return counter.name
            return self.let("at", f"arith.subi {self.index(room + counter.last)}, {counter.name} : index")
        numbers = [s for s in scope.scalars if s.dtype in INTS]
        if numbers and self.chance(40):
            number = self.random.choice(numbers)
            index = self.let("at", f"arith.index_cast {number.name} : {number.dtype} to index")
            index = self.let("at", f"arith.maxsi {index}, {self.index(0)} : index")
            return self.let("at", f"arith.minsi {index}, {self.index(extent - 1)} : index")
        return self.index(self.random.randrange(extent))

    def load(self, scope: Scope) -> Scalar | None:
        # What a forall writes may be read at the element that is the worker's own only.
        memory = self.random.choice(self.memories)
        own = self.place is not None and memory is self.place[0]
        indices = self.place[1] if own and self.place else self.indices(memory, scope)
        name = self.let("v", f"memref.load {memory.name}[{', '.join(indices)}] : {memory.type}")
        value = Scalar(name, memory.dtype, LIMIT, memory.constant)
        scope.scalars.append(value)
        return value

    def save(self, scope: Scope) -> None:
        if self.place:
            memory, indices = self.place
        else:
            memory = self.random.choice([m for m in self.memories if not m.constant])
            indices = self.indices(memory, scope)
        self.store(memory, indices, self.value(scope, memory.dtype))

    def store(self, memory: Memory, indices: list[str], value: Scalar) -> None:
        value = self.clamped(value)
        self.line(f"memref.store {value.name}, {memory.name}[{', '.join(indices)}] : {memory.type}")

    # Numbers ----------------------------------------------------------------------------------------------

    def value(self, scope: Scope, dtype: str) -> Scalar:
        """A number of this type: one in scope, an element, a result of arithmetic, a constant."""
        found = [s for s in scope.scalars if s.dtype == dtype]
        if found and self.chance(70):
            return self.random.choice(found)
        if found and self.chance(50):
            return self.arithmetic(scope, dtype)
        if dtype in INTS and scope.counters and self.chance(50):
            counter = self.random.choice(scope.counters)
            return Scalar(self.let("v", f"arith.index_cast {counter.name} : index to {dtype}"), dtype)
        number = self.random.randint(-8, 8)
        text = str(number / 4) if dtype in FLOATS else str(number)
        return Scalar(self.let("k", f"arith.constant {text} : {dtype}"), dtype, 2.0, True)

    def clamped(self, value: Scalar) -> Scalar:
        """Floats between -LIMIT and LIMIT."""
        if value.dtype in INTS or value.bound <= LIMIT:
            return value
        low, high = (self.let("k", f"arith.constant {n} : {value.dtype}") for n in (-LIMIT, LIMIT))
        above = self.let("v", f"arith.maximumf {value.name}, {low} : {value.dtype}")
        return Scalar(self.let("v", f"arith.minimumf {above}, {high} : {value.dtype}"), value.dtype)

    def arithmetic(self, scope: Scope, dtype: str) -> Scalar:
        a, b = (self.operand(scope, dtype) for _ in range(2))
        if dtype in INTS:
            made = Scalar(self.let("v", f"{self.random.choice(INT_OPS)} {a.name}, {b.name} : {dtype}"), dtype)
        elif self.chance(30):
            made = Scalar(
                self.let("v", f"{self.random.choice(FUNCTIONS)} {a.name} : {dtype}"), dtype, max(a.bound, 1.0)
            )
        else:
            op = self.random.choice(FLOAT_OPS)
            bound = a.bound * b.bound if op == "arith.mulf" else a.bound + b.bound
            made = Scalar(self.let("v", f"{op} {a.name}, {b.name} : {dtype}"), dtype, bound)
        made = self.clamped(made)
        scope.scalars.append(made)
        return made

    def operand(self, scope: Scope, dtype: str) -> Scalar:
        found = [s for s in scope.scalars if s.dtype == dtype]
        return (
            self.random.choice(found)
            if found and self.chance(80)
            else self.value(Scope([], scope.counters), dtype)
        )

    def compute(self, scope: Scope) -> None:
        self.arithmetic(scope, self.random.choice([*FLOATS, *INTS]))

    def convert(self, scope: Scope) -> None:
        source = self.value(scope, self.random.choice([*FLOATS, *INTS]))
        casts = {
            "f32": ("arith.extf", "f64"),
            "f64": ("arith.truncf", "f32"),
            "i32": self.random.choice(
                [
                    ("arith.extsi", "i64"),
                    ("arith.extui", "i64"),
                    ("arith.sitofp", "f32"),
                    ("arith.sitofp", "f64"),
                ]
            ),
            "i64": self.random.choice([("arith.trunci", "i32"), ("arith.sitofp", "f64")]),
        }
        op, target = casts[source.dtype]
        bound = source.bound if source.dtype in FLOATS else 1e30
        name = self.let("v", f"{op} {source.name} : {source.dtype} to {target}")
        scope.scalars.append(self.clamped(Scalar(name, target, bound, source.exact)))

    def condition(self, scope: Scope) -> str:
        """Of integers, or of floats that all engines agree on."""
        floats = [s for s in scope.scalars if s.dtype in FLOATS and s.exact]
        if floats and self.chance(40):
            a = self.random.choice(floats)
            b = self.let("k", f"arith.constant {self.random.randint(-4, 4) / 4} : {a.dtype}")
            return self.let(
                "cond",
                f"arith.cmpf {self.random.choice(['olt', 'oge', 'une', 'ueq'])}, {a.name}, {b} : {a.dtype}",
            )
        dtype = self.random.choice(INTS)
        a, b = (self.value(scope, dtype) for _ in range(2))
        predicate = self.random.choice(["eq", "ne", "slt", "sle", "sgt", "sge", "ult", "uge"])
        return self.let("cond", f"arith.cmpi {predicate}, {a.name}, {b.name} : {dtype}")

    def choose(self, scope: Scope) -> None:
        dtype = self.random.choice([*FLOATS, *INTS])
        condition = self.condition(scope)
        a, b = (self.clamped(self.value(scope, dtype)) for _ in range(2))
        scope.scalars.append(
            Scalar(self.let("v", f"arith.select {condition}, {a.name}, {b.name} : {dtype}"), dtype)
        )


INT_OPS = (
    *(
        "arith.addi",
        "arith.subi",
        "arith.muli",
        "arith.andi",
        "arith.ori",
        "arith.xori",
        "arith.divsi",
        "arith.remsi",
    ),
    *("arith.shli", "arith.shrsi", "arith.shrui", "arith.maxsi", "arith.minsi", "arith.maxui", "arith.minui"),
)
FLOAT_OPS = ("arith.addf", "arith.subf", "arith.mulf", "arith.maximumf", "arith.minimumf", "arith.maxnumf")
FUNCTIONS = ("math.tanh", "math.erf", "math.erfc", "math.absf", "math.sin", "math.cos", "arith.negf")
STATEMENTS: list[Callable[[Writer, Scope], object]] = [
    *(
        Writer.plain_loop,
        Writer.plain_loop,
        Writer.carrying_loop,
        Writer.carrying_loop,
        Writer.forall,
        Writer.forall,
    ),
    *(Writer.branch, Writer.branch, Writer.load, Writer.load, Writer.save, Writer.save, Writer.save),
    *(Writer.compute, Writer.compute, Writer.compute, Writer.convert, Writer.choose),
]
