"""`foundry init`: write a config file to start from, and say what to do with it."""

import json
import re
import shlex
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from foundry_cli.console import say
from foundry_cli.options import DEFAULT_CONFIG

STARTER = resources.files("foundry_cli") / "starter.yaml"
_SCHEMA_LINE = "# yaml-language-server: $schema=docs/config.schema.json"
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*(?::[A-Za-z0-9_./-]+)*")
_CORPUS = "source_corpus: builtin:python-docs "


def init(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="File to write.")] = DEFAULT_CONFIG,
    corpus: Annotated[
        str, typer.Option(help="Text to train on: a file, folder or glob; the default comes with Python.")
    ] = "builtin:python-docs",
    name: Annotated[str, typer.Option(help="Name of the experiment.")] = "quickstart",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write an annotated config file to start from, and the schema that lets editors complete it."""
    from foundry_config import ConfigError, json_schema, parse_config

    schema = config.with_suffix(".schema.json")
    for path in (config, schema):
        if path.exists() and not force:
            raise ConfigError(f"{path} exists; choose another name, or add --force to replace it")
    text = starter_text(corpus=corpus, name=name, schema=schema.name)
    parse_config(text, format="yaml", name=str(config))  # a corpus or name that does not fit is refused before writing
    _write(schema, json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n")
    _write(config, text)
    say(f"wrote {config}, a small model on {corpus}, with every setting explained")
    say(f"wrote {schema}, from which editors complete and check it")
    say()
    typed = shlex.quote(str(config))
    say(f"  foundry plan {typed}    what it means: steps, parameters, memory, disk, checkpoints")
    say(f"  foundry train {typed}   train it; run again, it goes on where it stopped")


def starter_text(*, corpus: str, name: str, schema: str) -> str:
    """Return the starter config for a corpus, as YAML text."""
    text = STARTER.read_text(encoding="utf-8")
    text = text.replace(_SCHEMA_LINE, f"# yaml-language-server: $schema={schema}")
    text = text.replace("experiment_name: quickstart", f"experiment_name: {_scalar(name)}")
    text = text.replace("runs/quickstart", f"runs/{name}")
    return text.replace(_CORPUS, f"source_corpus: {_scalar(corpus)} ")


def _scalar(text: str) -> str:
    """Return `text` as a YAML string, quoted unless it can only be one."""
    return text if _PLAIN.fullmatch(text) and text.lower() not in {"true", "false", "null"} else json.dumps(text)


def _write(path: Path, text: str) -> None:
    from foundry_config import StorageError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}; choose a place that you may write to") from error
