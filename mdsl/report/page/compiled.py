"""What the page of a compiled program shows: of the passes a file keeps no more than their names, of ops their places."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from mdsl.benchmarking.profile import Layer, LayerProfile
from mdsl.bytecode.module import Module
from mdsl.codegen.kernel import to_llvm_ir
from mdsl.codegen.kernels import parse_kernel
from mdsl.codegen.native import to_assembly
from mdsl.report.page.collect import Collector, roofline
from mdsl.target.target import Target


def compiled(
    module: Module, target: Target, profile: LayerProfile | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The page's data about `module`, which has been verified, and the assembly of its kernels; with `profile` its layers, as
    measured. Raises MdslError."""
    collector = Collector()
    function = module.function()
    collector.places.update(
        (place, n) for n, place in enumerate(dict.fromkeys(filter(None, function.locations)))
    )
    steps = [collector.bytecode(module, 0, kernels=True)]
    steps[0]["cost"] = "; ".join(f"{name}: {told}" for name, told in module.provenance.items())
    steps[0]["why"] = (
        "it is what passes made of the program; to see them, report the program that it was compiled from"
    )
    data = {
        "steps": steps,
        "texts": list(collector.texts),
        "places": list(collector.places),
        "remarks": [],
        "layers": [_layer(layer, collector.places) for layer in profile.layers] if profile else [],
        "uses": [[collector.places[place], kernel] for place, kernel in dict.fromkeys(_uses(module))],
        "parts": [],
        "roofline": roofline(target),
        "arena": {"size": function.arena, "length": 0, "buffers": []},
    }
    kernels = ((k.name, parse_kernel(k.name, k.ir)) for k in module.kernels)
    return data, {name: to_assembly(to_llvm_ir(k, name, target=target), target) for name, k in kernels}


def _uses(module: Module) -> Iterable[tuple[str, str]]:
    """The place of each dispatch, and the kernel that it calls."""
    function = module.function()
    for instruction, place in zip(function.code, function.locations, strict=False):
        if instruction.opcode == "dispatch" and place:
            number = instruction.operands[0]
            assert isinstance(number, int)
            yield place, module.kernels[number].name


def _layer(layer: Layer, places: dict[str, int]) -> dict[str, Any]:
    return {
        "name": _named(layer.place), "opcode": "", "kernel": layer.kernel, "calls": layer.calls, "flops": layer.flops,
        "bytes": layer.constants + layer.activations, "limit": layer.limit, "seconds": layer.seconds,
        "place": places.get(layer.place),
    }  # fmt: skip


def _named(place: str) -> str:
    """The node of a model, or a line of a file without its folder; what has no place is the program's own."""
    return re.sub(r"^.*/(?=[^/]*:\d+:\d+$)", "", place) or "the program"
