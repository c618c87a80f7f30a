"""The pages made from the structs: `docs/configuration.md`, `docs/config.schema.json`, `configs/template.yaml`.

    write_reference(Path("."))    # from the root of the repository, after a change of the schema

Tests fail while a page differs from what this makes.
"""

import json
import re
import textwrap
from pathlib import Path

from foundry_config.editor_schema import json_schema
from foundry_config.field_docs import FieldDoc, SectionDoc, section_docs
from foundry_config.reference_texts import INTRODUCTION, SCHEDULES

COMMENT_WIDTH = 110
PAGE = re.compile(r"\bdocs/(\w+\.md)")  # where a text names a page beside the reference, the reference links to it
SCHEMA_LINE = "# yaml-language-server: $schema=../docs/config.schema.json"

# What the template puts where a field has no default, and where the default would make no complete example.
TEMPLATE_VALUES = {
    "experiment_name": "template",
    "data.source_corpus": "builtin:python-docs",
    "data.batch_size": "16",
    "data.max_sequence_length": "128",
    "tokenizer.vocab_size": "4096",
    "model.layers": "4",
    "model.embedding_size": "128",
    "model.hidden_size": "128",
    "model.intermediate_hidden_size": "512",
    "model.attention_heads": "4",
    "training.output_dir": "runs/template",
    "training.learning_rate": "0.001",
    "training.epochs": "1.0",
    "training.warmup_steps": "20",
}


def reference_markdown() -> str:
    """Return the reference of all fields as one Markdown page."""
    return "\n".join([INTRODUCTION, *(_section_markdown(section) for section in section_docs()), SCHEDULES])


def schema_text() -> str:
    """Return the JSON Schema as it is kept in `docs/`."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def template_yaml() -> str:
    """Return a config that holds every field with its default, annotated, and is complete."""
    head = [
        SCHEMA_LINE,
        "#",
        "# Every field with its default. Copy what you change into a config of your own; the rest can be left out.",
        "# This file is made from the structs in foundry_config.schema.",
    ]
    top, *sections = section_docs()
    lines = [*head, *_fields_yaml(top, indent="")]
    for section in sections:
        lines += ["", f"# {section.meaning}", f"{section.name}:", *_fields_yaml(section, indent="  ")]
    return "\n".join(lines) + "\n"


def write_reference(root: Path) -> list[Path]:
    """Write the three pages below the root of the repository, and return them."""
    pages = {
        root / "docs" / "configuration.md": reference_markdown(),
        root / "docs" / "config.schema.json": schema_text(),
        root / "configs" / "template.yaml": template_yaml(),
    }
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
    return list(pages)


def _section_markdown(section: SectionDoc) -> str:
    lines = [f"## {section.name or 'Top level'}", "", section.meaning, ""]
    lines += ["| field | type | default | range | unit | class | meaning |", "|---|---|---|---|---|---|---|"]
    lines += [_row(field) for field in section.fields]
    return "\n".join(lines) + "\n"


def _row(field: FieldDoc) -> str:
    default = "**required**" if field.default is None else f"`{field.default}`"
    name = f"`{field.path.rpartition('.')[2]}`"
    meaning = PAGE.sub(r"[\1](\1)", field.meaning)
    cells = (name, field.type, default, field.range, field.unit, field.field_class, meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _fields_yaml(section: SectionDoc, *, indent: str) -> list[str]:
    lines: list[str] = []
    for field in section.fields:
        facts = [field.type.replace("`", ""), field.range.replace("`", ""), field.unit, field.field_class]
        text = f"{field.meaning} ({'; '.join(fact for fact in facts if fact)})"
        lines += ["", *(f"{indent}# {line}" for line in textwrap.wrap(text, COMMENT_WIDTH, break_on_hyphens=False))]
        value = TEMPLATE_VALUES.get(field.path, field.default)
        lines.append(f"{indent}{field.path.rpartition('.')[2]}: {value}")
    return lines
