"""`foundry schema`: the JSON Schema of config files, for editors and scripts."""

from foundry_cli.console import say_json


def schema() -> None:
    """Print the JSON Schema of config files.

    Save it, and put `# yaml-language-server: $schema=foundry.schema.json` on the first line of a config: editors then
    complete and check the fields.
    """
    from foundry_config import json_schema

    say_json(json_schema())
