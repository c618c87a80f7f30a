"""The foundry command: arguments in, sentences out."""

from foundry_cli.main import app, run

__all__ = ["app", "run"]
