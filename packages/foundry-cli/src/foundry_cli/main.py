"""The `foundry` command: one subcommand a file in `commands/`, and one place where failures become exit codes.

Help must be instant, so nothing here or at the top of a command's file imports torch, transformers, foundry_train or
foundry_model; the body of a command does.
"""

import contextlib
import faulthandler
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from foundry_cli.command_table import COMMANDS, CommandTable, Group
from foundry_cli.console import say
from foundry_cli.failures import report_failure
from foundry_cli.leaving import leave
from foundry_cli.streams import surviving_streams
from foundry_cli.waiting_threads import give_way_if_busy

PROGRAM = "foundry"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `foundry` with `arguments` (default: those of the process), and exit."""
    if arguments is None and sys.getfilesystemencoding().lower() != "utf-8":
        # names and texts of a UTF-8 config and corpus would be misread: begin anew, as under LC_ALL=C.UTF-8
        os.execv(sys.executable, [sys.executable, "-X", "utf8", "-m", "foundry_cli", *sys.argv[1:]])
    _leave_a_stack_behind()
    give_way_if_busy()
    asked = list(sys.argv[1:] if arguments is None else arguments)
    with surviving_streams(apart="--json" in asked) as lost:
        code = run(asked)
        if lost() and code == 0:
            code = _report_lost_output(lost())
    leave(code)


def run(arguments: list[str]) -> int:
    """Run `foundry` with `arguments` and return the exit code."""
    debug, arguments = _take_debug(arguments)
    try:
        typer.main.get_command(app).main(arguments, prog_name=PROGRAM)
    except SystemExit as stop:
        return _code(stop)
    except BaseException as error:  # the one place where every failure ends
        return report_failure(error, debug=debug)
    return 0


class PanelGroup(TyperGroup):
    """A group whose help lists the commands panel by panel, in plain text."""

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write one section for each panel, in the order of the commands."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.commands[name]
            panel = getattr(command, "rich_help_panel", None)
            title = panel if isinstance(panel, str) else "Commands"
            panels.setdefault(title, []).append((name, command.get_short_help_str(limit=160)))
        for title, rows in panels.items():
            with formatter.section(title):
                formatter.write_dl(rows)


def make_app(commands: CommandTable) -> typer.Typer:
    """Build the application from the commands of each help panel."""
    application = typer.Typer(
        name=PROGRAM,
        cls=PanelGroup,
        rich_markup_mode=None,  # help drawn with rich takes 0.4 s longer
        help="One config file in, a trustworthy trained language model out.",
        epilog="Start with `foundry init`, then `foundry train`. `--debug` with any command shows tracebacks.",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,  # failures.py decides what is shown
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    application.callback()(_options)
    for panel, entries in commands.items():
        for name, entry in entries:
            if isinstance(entry, Group):
                application.add_typer(_make_group(entry), name=name, help=entry.help, rich_help_panel=panel)
            else:
                application.command(name, rich_help_panel=panel)(entry)
    return application


def _make_group(group: Group) -> typer.Typer:
    application = typer.Typer(cls=PanelGroup, rich_markup_mode=None, no_args_is_help=True)
    application.callback()(lambda: None)  # keeps a group of one command a group
    for name, function in group.commands.items():
        application.command(name)(function)
    return application


def _leave_a_stack_behind() -> None:
    """Let a process that is killed from inside (SIGSEGV, SIGBUS, SIGABRT) write its stack to standard error first."""
    if sys.__stderr__ is not None and not faulthandler.is_enabled():
        with contextlib.suppress(OSError, ValueError):  # a standard error that is no file, as in a notebook
            faulthandler.enable(sys.__stderr__)


def _report_lost_output(why: str) -> int:
    from foundry_config.errors import StorageError

    advice = "free some, and run the command again"
    return report_failure(StorageError(f"standard output could not be written: {why}; {advice}"), debug=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata  # 0.05 s that no other command needs

        say(f"{PROGRAM} {metadata.version('foundry-cli')}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Hold the options of the program itself; `_show_version` does the work."""


def _take_debug(arguments: list[str]) -> tuple[bool, list[str]]:
    """Take `--debug` out from wherever it stands, unless it comes after a bare `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != "--debug"]
    return len(options) < end, options + arguments[end:]


def _code(stop: SystemExit) -> int:
    return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1


app = make_app(COMMANDS)
