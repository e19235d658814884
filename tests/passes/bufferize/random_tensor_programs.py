"""Random programs on tensors, full of shared destinations, views, loops and late reads."""

from __future__ import annotations

from random import Random

ELEMENTWISE = """linalg.generic {{indexing_maps = [{maps}], iterator_types = ["parallel", "parallel"]}}
    ins({ins}) outs(%{out} : {type}) {{
  ^bb0({args}):
    {body}
    linalg.yield %r : f32
  }} -> {type}"""
IDENTITY = "affine_map<(d0, d1) -> (d0, d1)>"
SWAPPED = "affine_map<(d0, d1) -> (d1, d0)>"

KERNELS = """
ukernel.func @accumulate(%a: tensor<2x3xf32>, %o: tensor<2x3xf32>) -> tensor<2x3xf32> {
  %r = arith.addf %a, %o : tensor<2x3xf32>
  %s = linalg.copy ins(%r : tensor<2x3xf32>) outs(%o : tensor<2x3xf32>) -> tensor<2x3xf32>
  ukernel.return %s : tensor<2x3xf32>
}
ukernel.func @double(%a: tensor<2x3xf32>, %o: tensor<2x3xf32>) -> tensor<2x3xf32> {
  %two = arith.constant dense<2.0> : tensor<2x3xf32>
  %table = arith.constant dense<[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]> : tensor<2x3xf32>
  %r = arith.mulf %a, %two : tensor<2x3xf32>
  %t = arith.addf %r, %table : tensor<2x3xf32>
  ukernel.return %t : tensor<2x3xf32>
}
ukernel.func @swap(%o: tensor<2x3xf32>, %p: tensor<2x3xf32>) -> (tensor<2x3xf32>, tensor<2x3xf32>) {
  ukernel.return %p, %o : tensor<2x3xf32>, tensor<2x3xf32>
}
"""


def text_of(shape: tuple[int, ...]) -> str:
    return f"tensor<{''.join(f'{d}x' for d in shape)}f32>"


class Program:
    """Writes one program; `pool` holds the tensors that may be used at this point, as (name, shape)."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.lines: list[str] = []
        self.count = 0
        self.depth = 0
        self.pool: list[tuple[str, tuple[int, ...]]] = []

    def text(self, length: int) -> str:
        shapes = [(4, 6), (4, 6), (6, 4), (2, 3)]
        arguments = ", ".join(f"%x{i}: {text_of(s)}" for i, s in enumerate(shapes))
        self.pool = [(f"x{i}", s) for i, s in enumerate(shapes)]
        for i in range(7):
            self.emit(f"%c{i} = arith.constant {i} : index")
        self.emit("%zero = arith.constant 0.5 : f32")
        self.emit("%yes = arith.constant true")
        self.emit(f"%k = arith.constant dense<1.5> : {text_of((4, 6))}")
        self.pool.append(("k", (4, 6)))
        for _ in range(length):
            self.step()
        returned = [self.pick() for _ in range(self.random.randint(1, 3))] + self.pool[-1:]
        types = ", ".join(text_of(s) for _, s in returned)
        self.emit(f"func.return {', '.join(f'%{n}' for n, _ in returned)} : {types}")
        body = "\n".join(f"  {line}" for line in self.lines)
        return f"{KERNELS}func.func @main({arguments}) -> ({types}) {{\n{body}\n}}\n"

    def emit(self, line: str) -> None:
        self.lines.append(line)

    def fresh(self, shape: tuple[int, ...]) -> str:
        self.count += 1
        self.pool.append((f"v{self.count}", shape))
        return f"v{self.count}"

    def pick(self, shape: tuple[int, ...] | None = None) -> tuple[str, tuple[int, ...]]:
        """A tensor, rather a young one."""
        found = [p for p in self.pool if shape is None or p[1] == shape]
        return found[-1 - min(int(self.random.expovariate(0.5)), len(found) - 1)]

    def matrix(self) -> tuple[str, tuple[int, ...]]:
        return self.random.choice([p for p in self.pool if len(p[1]) == 2][-4:])

    def destination(self, shape: tuple[int, ...]) -> str:
        """A tensor to write: an old one, or an empty one."""
        if self.random.random() < 0.4 or not any(s == shape for _, s in self.pool):
            self.count += 1
            self.emit(f"%e{self.count} = tensor.empty() : {text_of(shape)}")
            return f"e{self.count}"
        return self.pick(shape)[0]

    def step(self) -> None:
        kinds = [
            self.elementwise, self.elementwise, self.fill, self.extract, self.insert, self.insert, self.insert_back, self.concat,
            self.pad, self.reshape, self.matmul, self.element, self.dispatch, self.swap, self.transpose,
        ]  # fmt: skip
        if self.depth < 2:
            kinds += [self.loop, self.loop, self.branch, self.parallel, self.parallel]
        self.random.choice(kinds)()

    # Ops ------------------------------------------------------------------------------------------------------

    def elementwise(self) -> None:
        name, shape = self.matrix()
        if self.random.random() < 0.5 and shape[::-1] in [s for _, s in self.pool]:
            other, map = self.pick(shape[::-1])[0], SWAPPED
        else:
            other, map = self.pick(shape)[0], IDENTITY
        reads = self.random.random() < 0.4
        out = self.pick(shape)[0] if reads else self.destination(shape)
        body = "%s = arith.subf %a, %b : f32\n    %r = arith." + (
            "addf %s, %o : f32" if reads else "maximumf %s, %a : f32"
        )
        ins = f"%{name}, %{other} : {text_of(shape)}, {text_of(shape if map == IDENTITY else shape[::-1])}"
        maps, args = f"{IDENTITY}, {map}, {IDENTITY}", "%a: f32, %b: f32, %o: f32"
        line = ELEMENTWISE.format(maps=maps, ins=ins, out=out, type=text_of(shape), args=args, body=body)
        self.emit(f"%{self.fresh(shape)} = {line}")

    def fill(self) -> None:
        _, shape = self.pick()
        out = self.destination(shape)
        self.emit(
            f"%{self.fresh(shape)} = linalg.fill ins(%zero : f32) outs(%{out} : {text_of(shape)}) -> {text_of(shape)}"
        )

    def part(self, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        """A random part of a shape: its text and its shape."""
        sizes = tuple(self.random.randint(1, d) for d in shape)
        offsets = [self.random.randint(0, d - s) for d, s in zip(shape, sizes, strict=True)]
        shown = [f"%c{o}" if self.random.random() < 0.3 and o < 7 else str(o) for o in offsets]
        ones = ", ".join("1" for _ in shape)
        return f"[{', '.join(shown)}] [{', '.join(map(str, sizes))}] [{ones}]", sizes

    def extract(self) -> None:
        name, shape = self.pick()
        where, sizes = self.part(shape)
        self.emit(
            f"%{self.fresh(sizes)} = tensor.extract_slice %{name}{where} : {text_of(shape)} to {text_of(sizes)}"
        )

    def insert(self) -> None:
        name, shape = self.pick()
        where, sizes = self.part(shape)
        found = [n for n, s in self.pool if s == sizes]
        if found:
            self.emit_insert(self.random.choice(found), sizes, name, shape, where)

    def emit_insert(
        self, source: str, sizes: tuple[int, ...], name: str, shape: tuple[int, ...], where: str
    ) -> None:
        new = self.fresh(shape)
        self.emit(
            f"%{new} = tensor.insert_slice %{source} into %{name}{where} : {text_of(sizes)} into {text_of(shape)}"
        )

    def insert_back(self) -> None:
        """The tiled pattern: a part is taken out, changed and put back."""
        name, shape = self.matrix()
        where, sizes = self.part(shape)
        part = self.fresh(sizes)
        self.emit(f"%{part} = tensor.extract_slice %{name}{where} : {text_of(shape)} to {text_of(sizes)}")
        done = self.fresh(sizes)
        self.emit(
            f"%{done} = linalg.fill ins(%zero : f32) outs(%{part} : {text_of(sizes)}) -> {text_of(sizes)}"
        )
        if self.random.random() < 0.3:
            self.elementwise()
        self.emit_insert(done, sizes, name, shape, where)

    def concat(self) -> None:
        name, shape = self.pick()
        other, _ = self.pick(shape)
        if shape[0] > 8:
            return
        whole = (2 * shape[0], *shape[1:])
        types = f"({text_of(shape)}, {text_of(shape)}) -> {text_of(whole)}"
        self.emit(f"%{self.fresh(whole)} = tensor.concat dim(0) %{name}, %{other} : {types}")

    def pad(self) -> None:
        name, shape = self.matrix()
        if max(shape) > 8:
            return
        low, high = [self.random.randint(0, 1) for _ in shape], [self.random.randint(0, 1) for _ in shape]
        padded = tuple(d + lo + hi for d, lo, hi in zip(shape, low, high, strict=True))
        self.emit(f"%{self.fresh(padded)} = tensor.pad %{name} low{low} high{high} {{")
        self.emit("^bb0(%p0: index, %p1: index):")
        self.emit(f"  tensor.yield %zero : f32\n  }} : {text_of(shape)} to {text_of(padded)}")

    def reshape(self) -> None:
        name, shape = self.pick()
        if len(shape) == 2:
            flat = (shape[0] * shape[1],)
            self.emit(
                f"%{self.fresh(flat)} = tensor.collapse_shape %{name} [[0, 1]] : {text_of(shape)} into {text_of(flat)}"
            )
        elif shape[0] % 6 == 0:
            split = (shape[0] // 6, 6)
            self.emit(
                f"%{self.fresh(split)} = tensor.expand_shape %{name} [[0, 1]] output_shape [{split[0]}, 6] : "
                f"{text_of(shape)} into {text_of(split)}"
            )

    def matmul(self) -> None:
        left, shape = self.matrix()
        rows = [(n, s) for n, s in self.pool if len(s) == 2 and s[0] == shape[1]]
        if not rows:
            return
        right, other = self.random.choice(rows)
        result = (shape[0], other[1])
        if not any(s == result for _, s in self.pool):
            self.pool.append((self.destination(result), result))
            out = self.pool.pop()[0]
            start = self.fresh(result)
            self.emit(
                f"%{start} = linalg.fill ins(%zero : f32) outs(%{out} : {text_of(result)}) -> {text_of(result)}"
            )
        out = self.pick(result)[0]
        self.emit(
            f"%{self.fresh(result)} = linalg.matmul ins(%{left}, %{right} : {text_of(shape)}, {text_of(other)}) "
            f"outs(%{out} : {text_of(result)}) -> {text_of(result)}"
        )

    def transpose(self) -> None:
        name, shape = self.matrix()
        back = shape[::-1]
        out = self.destination(back)
        operands = f"ins(%{name} : {text_of(shape)}) outs(%{out} : {text_of(back)})"
        self.emit(f"%{self.fresh(back)} = linalg.transpose {operands} permutation = [1, 0]")

    def element(self) -> None:
        name, shape = self.matrix()
        self.count += 1
        row, column = self.random.randrange(min(shape[0], 7)), self.random.randrange(min(shape[1], 7))
        self.emit(f"%s{self.count} = tensor.extract %{name}[%c{row}, %c{column}] : {text_of(shape)}")
        scalar = f"%s{self.count}"
        other = self.pick(shape)[0]
        self.emit(
            f"%{self.fresh(shape)} = tensor.insert {scalar} into %{other}[%c0, %c{column}] : {text_of(shape)}"
        )

    def dispatch(self) -> None:
        type = text_of((2, 3))
        kernel = self.random.choice(["accumulate", "double"])
        source = self.pick((2, 3))[0]
        out = self.destination((2, 3)) if kernel == "double" else self.pick((2, 3))[0]
        types = f"({type}, {type}) -> {type}"
        self.emit(
            f"%{self.fresh((2, 3))} = ukernel.dispatch @{kernel}(%{source}, %{out}) {{outs = 1}} : {types}"
        )

    def swap(self) -> None:
        type = text_of((2, 3))
        outs = [self.pick((2, 3))[0] for _ in range(2)]
        results = [self.fresh((2, 3)) for _ in range(2)]
        self.emit(
            f"%{results[0]}, %{results[1]} = ukernel.dispatch @swap(%{outs[0]}, %{outs[1]}) {{outs = 2}} : "
            f"({type}, {type}) -> ({type}, {type})"
        )

    # Control flow ---------------------------------------------------------------------------------------------

    def body(self, length: int) -> None:
        self.depth += 1
        for _ in range(length):
            self.step()
        self.depth -= 1

    def loop(self) -> None:
        carried = [self.pick() for _ in range(self.random.randint(1, 2))]
        if self.random.random() < 0.5:
            carried = [carried[0], self.pick(carried[0][1])]
        types = ", ".join(text_of(s) for _, s in carried)
        kept = list(self.pool)
        self.count += 1
        names = [f"l{self.count}_{i}" for i in range(len(carried))]
        pairs = ", ".join(f"%{n} = %{v}" for n, (v, _) in zip(names, carried, strict=True))
        at = len(self.lines)
        self.pool += [(n, s) for n, (_, s) in zip(names, carried, strict=True)]
        counter = self.count
        self.body(self.random.randint(0, 4))
        yielded = [self.pick(s)[0] for _, s in carried]
        if len(carried) == 2 and carried[0][1] == carried[1][1] and self.random.random() < 0.3:
            yielded = names[::-1]
        self.emit(f"scf.yield {', '.join(f'%{n}' for n in yielded)} : {types}\n  }}")
        self.pool = kept
        results = [self.fresh(s) for _, s in carried]
        bounds = f"%i{counter} = %c0 to %c3 step %c1 iter_args({pairs}) -> ({types})"
        self.lines.insert(at, f"{', '.join(f'%{r}' for r in results)} = scf.for {bounds} {{")

    def branch(self) -> None:
        _, shape = self.pick()
        type = text_of(shape)
        kept = list(self.pool)
        at = len(self.lines)
        self.body(self.random.randint(0, 3))
        self.emit(f"scf.yield %{self.pick(shape)[0]} : {type}")
        self.pool = list(kept)
        self.emit("} else {")
        self.body(self.random.randint(0, 3))
        self.emit(f"scf.yield %{self.pick(shape)[0]} : {type}\n  }}")
        self.pool = kept
        self.lines.insert(at, f"%{self.fresh(shape)} = scf.if %yes -> ({type}) {{")

    def parallel(self) -> None:
        """Tiles of 2x3 of a 4x6 tensor; sometimes an iteration reads another one's tile."""
        init = self.pick((4, 6))[0]
        kept = list(self.pool)
        self.count += 1
        shared, i, j = f"o{self.count}", f"i{self.count}", f"j{self.count}"
        at = len(self.lines)
        where = f"[%{i}, %{j}] [2, 3] [1, 1]"
        whole, type = text_of((4, 6)), text_of((2, 3))
        tile = self.fresh((2, 3))
        self.emit(f"%{tile} = tensor.extract_slice %{shared}{where} : {whole} to {type}")
        if self.random.random() < 0.3:
            self.emit(
                f"%{self.fresh((2, 3))} = tensor.extract_slice %{shared}[0, 3] [2, 3] [1, 1] : {whole} to {type}"
            )
        source = self.pick((4, 6))[0]
        self.emit(f"%{self.fresh((2, 3))} = tensor.extract_slice %{source}{where} : {whole} to {type}")
        self.body(self.random.randint(0, 3))
        self.dispatch()
        result = self.pick((2, 3))[0]
        self.emit("scf.forall.in_parallel {")
        self.emit(
            f"tensor.parallel_insert_slice %{result} into %{shared}{where} : {type} into {whole}\n  }}\n  }}"
        )
        self.pool = kept
        head = f"scf.forall (%{i}, %{j}) = (0, 0) to (4, 6) step (2, 3) shared_outs(%{shared} = %{init}) -> ({whole}) {{"
        self.lines.insert(at, f"%{self.fresh((4, 6))} = {head}")
