"""The `mdsl` command: one file a subcommand. Anything heavy is imported inside the functions, for `--help` is fast."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mdsl.cli.bench import BenchCommand, bench
from mdsl.cli.bisect import bisect
from mdsl.cli.compile import compile_
from mdsl.cli.diff import diff
from mdsl.cli.dis import dis
from mdsl.cli.errors import Interrupted, hear, shown
from mdsl.cli.explain import explain
from mdsl.cli.fmt import fmt
from mdsl.cli.import_ import import_
from mdsl.cli.ops import ops
from mdsl.cli.opt import OptCommand, opt
from mdsl.cli.reduce import reduce
from mdsl.cli.report import report
from mdsl.cli.run import run
from mdsl.cli.terminal import escaping
from mdsl.cli.train import train


class _Commands(TyperGroup):
    """Lets Ctrl-C through, of which Typer would not say a word."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise Interrupted from interrupt


app = typer.Typer(
    cls=_Commands,
    name="mdsl",
    help="Optimise, compile and run programs written in .mir text.",
    no_args_is_help=True,
    add_completion=False,  # its options cost a tenth of a second at every start
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("import")(import_)
app.command("opt", cls=OptCommand)(opt)
app.command("diff")(diff)
app.command("fmt")(fmt)
app.command("run")(run)
app.command("compile")(compile_)
app.command("train")(train)
app.command("bisect")(bisect)
app.command("reduce")(reduce)
app.command("dis")(dis)
app.command("bench", cls=BenchCommand)(bench)
app.command("explain")(explain)
app.command("report")(report)
app.command("ops")(ops)


def _version(wanted: bool) -> None:
    if wanted:
        from mdsl import __version__

        typer.echo(f"mdsl {__version__}")
        raise typer.Exit


def _help(ctx: typer.Context, wanted: bool) -> None:
    if wanted:
        typer.echo(ctx.get_help())
        raise typer.Exit


# Typer's own help option, when it is not given, imports pydantic: a third of the time of a start.
@app.callback(add_help_option=False)
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
    help: Annotated[
        bool, typer.Option("--help", "-h", help="Show this message.", callback=_help, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """The console script."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `mdsl opt ... | head` ends quietly, as other tools do
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # the caller has closed it
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # it is ignored in a shell's background
        signal.signal(signal.SIGINT, hear)
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # all is done then
    code = command(sys.argv[1:])
    signal.signal(signal.SIGINT, before)
    if code == 130:
        sys.stdout.flush()
        os._exit(code)  # Python would end by a signal after some interrupts, as after one in `exec`
    sys.exit(code)


def command(args: list[str]) -> int:
    """Runs one command and returns its exit code. A user's error is one message on stderr and exit code 1,
    without a traceback."""
    try:
        with escaping(), shown():
            app(args, prog_name="mdsl")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return 1 if code == 2 else code
    return 0
