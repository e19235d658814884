"""`mdsl explain`: what became of an op, and why."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdsl.cli.files import read_sized
from mdsl.cli.load import ProgramFile, Threads
from mdsl.cli.progress import progress
from mdsl.cli.settings import takes_settings
from mdsl.cli.tables import percent, shortened, table
from mdsl.compiler.settings import DEFAULT, Settings
from mdsl.support.escapes import escaped, one_line

if TYPE_CHECKING:
    from mdsl.benchmarking.profile import LayerProfile
    from mdsl.report.arena import Data
    from mdsl.report.explain import Explanation, Tracer
    from mdsl.report.remarks import Told


@takes_settings
def explain(
    program: ProgramFile,
    op: Annotated[
        str | None,
        typer.Option(
            help="Which one: '%conv1', a line of the file, the name of an ONNX node, or '@kernel'. Without it all, a line each.",
            metavar="NAME",
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Measure it too: its time, and how far that is from the roofline."),
    ] = False,
    threads: Threads = 1,
    settings: Settings = DEFAULT,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what an op became: its kernels, what passes did to it and what kept them from more, its memory and its cost."""
    from mdsl.report.explain import Tracer

    module, settings = read_sized(program, settings)
    with progress("compiling"):
        tracer = Tracer.lowering(module, settings)
    found = tracer.all() if op is None else tracer.find(op)
    profile = None
    if measure:
        from mdsl.benchmarking.profile import profile_module

        profile = profile_module(module, settings, threads)
    if json:
        typer.echo(_json(found, profile))
    elif op is None:
        _table(found, profile)
        typer.echo(escaped(_gaps(found, profile) + _memory(tracer) + _constants(found)), nl=False)
    else:
        typer.echo(escaped("\n".join(_page(e, profile) for e in found)), nl=False)


def _measured(e: Explanation, profile: LayerProfile | None) -> tuple[float, float] | None:
    """Seconds that its dispatches took, and that the measured roofline allows them."""
    layers = [layer for layer in profile.layers if layer.place == e.location] if profile and e.uses else []
    return (sum(x.seconds for x in layers), sum(x.limit for x in layers)) if layers else None


def _table(found: list[Explanation], profile: LayerProfile | None) -> None:
    from mdsl.report.units import bytes_text, count_text, flops_text, seconds_text

    header = ["op", "is", "kernels", "calls", "work", "moved", "at the roofline", "share"]
    total = sum(e.seconds for e in found)
    timed = {e.location: _measured(e, profile) for e in found}
    taken = sum(times[0] for times in timed.values() if times)
    rows: list[list[str]] = []
    for e in found:
        kernels = f"@{e.uses[0].kernel}" + (f" +{len(e.uses) - 1}" if len(e.uses) > 1 else "")
        row = [
            e.name,
            e.opcode,
            kernels,
            count_text(e.work.calls),
            flops_text(e.work.flops),
            bytes_text(e.bytes),
        ]
        rows.append([*row, seconds_text(e.seconds), percent(e.seconds, total)])
        if profile is not None:
            times = timed[e.location]
            rows[-1] += (
                [seconds_text(times[0]), percent(times[0], taken), f"{100 * times[1] / times[0]:.0f} %"]
                if times
                else ["", "", ""]
            )
    table([*header, *(["measured", "share", "of the peak"] if profile else [])], rows, words=(0, 1, 2))


_SLOWEST = 3


def _gaps(found: list[Explanation], profile: LayerProfile | None) -> str:
    """The ops that take longest beyond what the measured peak allows, the one with most to gain first."""
    from mdsl.report.units import seconds_text

    pairs = [(e, times[0] - times[1], times) for e in found if (times := _measured(e, profile))]
    slow = sorted((p for p in pairs if p[1] > 0), key=lambda p: -p[1])[:_SLOWEST]
    lines = [
        f"  {e.name}: {seconds_text(gap)} of {seconds_text(times[0])} ({100 * times[1] / times[0]:.0f} % of the peak)"
        for e, gap, times in slow
    ]
    lines = ["furthest from the measured peak", *lines] if lines else []
    return "".join(f"{_with_short_names(one_line(line))}\n" for line in lines)


def _memory(tracer: Tracer) -> str:
    """How large the arena is, and who needs it when most of it is in use."""
    from mdsl.report.units import bytes_text

    peak = tracer.peak
    if peak is None:
        return ""
    lines = [
        f"arena: {bytes_text(peak.arena)}; most in use: {bytes_text(peak.nbytes)}, while {tracer.name_at(peak.op)} is computed"
    ]
    lines += [f"  {p.name}: {bytes_text(p.nbytes)} from byte {p.offset} on, {p.type}" for p in peak.places]
    return "".join(f"{_with_short_names(one_line(line))}\n" for line in lines)


_LARGEST, _READERS = 5, 3
"""Constants that are named, and of each the ops that read it."""


def _constants(found: list[Explanation]) -> str:
    """How large the constants are, the largest of them, and what reads these."""
    from mdsl.report.units import bytes_text, count_text

    readers: dict[Data, list[str]] = {}
    for e in found:
        for constant in e.constants:
            readers.setdefault(constant, []).append(e.name)
    if not readers:
        return ""
    total = sum(constant.nbytes for constant in readers)
    lines = [f"constants: {bytes_text(total)} in {count_text(len(readers))}"]
    for constant in sorted(readers, key=lambda c: -c.nbytes)[:_LARGEST]:
        names = readers[constant]
        more = f" and {len(names) - _READERS} more" if len(names) > _READERS else ""
        read = f"{', '.join(names[:_READERS])}{more}"
        lines.append(f"  {constant.name}: {bytes_text(constant.nbytes)}, {constant.type}, for {read}")
    return "".join(f"{_with_short_names(one_line(line))}\n" for line in lines)


def _page(e: Explanation, profile: LayerProfile | None) -> str:
    from mdsl.report.units import bytes_text, count_text, flops_text, seconds_text

    lines = [f"{e.name} = {e.opcode} -> {e.type}    {e.location}"]
    if e.told:
        lines += ["  decisions", *_decisions(e.told)]
    if e.uses:
        lines.append("  kernels")
    for use in e.uses:
        lines.append(f"    @{use.kernel}: {count_text(use.work.calls)} calls, {flops_text(use.work.flops)}")
    if e.memory:
        lines.append("  memory, in the arena")
    lines += [f"    {m.name}: {bytes_text(m.nbytes)} from byte {m.offset} on, {m.type}" for m in e.memory]
    if e.constants:
        lines.append("  constants")
    lines += [f"    {c.name}: {bytes_text(c.nbytes)}, {c.type}" for c in e.constants]
    if e.uses:
        cost = f"{flops_text(e.work.flops)}, {bytes_text(e.bytes)} moved, at least {seconds_text(e.seconds)} by the roofline"
        lines += ["  cost", f"    {cost}"]
        times = _measured(e, profile)
        if times is not None:
            limit = f"{seconds_text(times[1])} ({100 * times[1] / times[0]:.0f} %)"
            lines.append(
                f"    measured {seconds_text(times[0])}; at the measured peak, its tensors in caches, it would be {limit}"
            )
    elif e.within:
        lines.append(f"  it is a part of {', '.join(f'@{kernel}' for kernel in e.within)}")
    else:
        lines.append("  nothing of its own is left: it is a part of what it was fused into, or of no use")
    first, *rest = lines
    return "".join(f"{one_line(line)}\n" for line in (first, *map(_with_short_names, rest)))


def _with_short_names(line: str) -> str:
    return re.sub(r"[%@][^\s,:]+", lambda name: shortened(name[0]), line)


def _decisions(told: Sequence[Told]) -> list[str]:
    """A line a remark, and one for what it chose among; those that are alike once."""
    from mdsl.report.remarks import described
    from mdsl.target.cost import Choice

    width = max(len(t.step) for t in told)
    found: Counter[tuple[str, ...]] = Counter()
    for step, remark in ((t.step, t.remark) for t in told):
        mark = " " if remark.kind == "applied" else "-"
        choices = [fact for fact in remark.facts.values() if isinstance(fact, Choice)]
        rows = [f"    {' ' * width}    {described(choice)}" for choice in choices]
        found[(f"  {mark} {step.ljust(width)}  {remark.op} {remark.message}", *rows)] += 1
    lines: list[str] = []
    for (first, *rows), times in found.items():
        lines += [first + (f" ({times} times)" if times > 1 else ""), *rows]
    return lines


def _json(found: list[Explanation], profile: LayerProfile | None) -> str:
    import json

    from mdsl.report.remarks import record

    def plain(e: Explanation) -> dict[str, Any]:
        times = _measured(e, profile)
        return {
            "op": e.name, "opcode": e.opcode, "type": e.type, "location": e.location,
            "remarks": [record(t) for t in e.told],
            "kernels": [{"kernel": u.kernel, **dataclasses.asdict(u.work)} for u in e.uses],
            "within": e.within,
            "memory": [dataclasses.asdict(m) for m in e.memory],
            "constants": [dataclasses.asdict(c) for c in e.constants],
            "flops": e.work.flops, "bytes": e.bytes, "roofline_seconds": e.seconds,
            "measured_seconds": times[0] if times else None,
            "measured_roofline_seconds": times[1] if times else None,
        }  # fmt: skip

    return json.dumps([plain(e) for e in found], indent=1)
