"""Which commands there are, and in what order `foundry --help` shows them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from foundry_cli.commands.checkpoints import checkpoints
from foundry_cli.commands.evaluate import evaluate
from foundry_cli.commands.export import export
from foundry_cli.commands.generate import generate
from foundry_cli.commands.info import info
from foundry_cli.commands.init import init
from foundry_cli.commands.inspect import data
from foundry_cli.commands.plan import plan
from foundry_cli.commands.preprocess import preprocess
from foundry_cli.commands.report import compare, report
from foundry_cli.commands.schema import schema
from foundry_cli.commands.train import train
from foundry_cli.commands.validate import validate
from foundry_cli.commands.verify import verify


class Group(NamedTuple):
    """Commands below a word of their own, as in `foundry inspect data`."""

    help: str
    commands: dict[str, Callable[..., Any]]


CommandTable = dict[str, list[tuple[str, Callable[..., Any] | Group]]]

COMMANDS: CommandTable = {
    "Begin": [("init", init), ("validate", validate), ("plan", plan)],
    "Train": [("preprocess", preprocess), ("train", train)],
    "Use the model": [("generate", generate), ("evaluate", evaluate), ("export", export)],
    "Look at a run": [
        ("checkpoints", checkpoints),
        ("report", report),
        ("compare", compare),
        ("verify", verify),
        ("inspect", Group("Look at what a training sees.", {"data": data})),
    ],
    "About the program": [("info", info), ("schema", schema)],
}
