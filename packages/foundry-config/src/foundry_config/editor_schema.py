"""The JSON Schema of a config file, from which editors complete and check.

Put `# yaml-language-server: $schema=docs/config.schema.json` on the first line of a YAML config.
"""

from typing import Any

import msgspec

from foundry_config.field_docs import SectionDoc, section_docs
from foundry_config.schema import ExperimentConfig

INCLUDE = {
    "anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string", "minLength": 1}}],
    "description": "Config files that this one is laid over, relative to its own folder; later ones win.",
}


def json_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12) with bounds, defaults and a description of every field.

    `x-class` says what a change of the field does to a run that exists: identity, numeric or free; `x-unit` its unit.
    A file that includes others need not have every required field, as they may stand there.
    """
    _, definitions = msgspec.json.schema_components([ExperimentConfig])
    sections = section_docs()
    for section in sections:
        _describe(definitions[section.struct], section)
    root = definitions.pop(ExperimentConfig.__name__)
    complete: dict[str, Any] = {"required": root.pop("required"), "properties": {}}
    for section in sections[1:]:
        definition = definitions[section.struct]
        root["properties"][section.name] = {"$ref": f"#/$defs/{section.struct}", "description": section.meaning}
        if required := definition.pop("required", None):
            complete["properties"][section.name] = {"required": required}
    root["properties"] = {"include": INCLUDE, **root["properties"]}
    alone: dict[str, Any] = {"if": {"required": ["include"]}, "then": {}, "else": complete}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, **alone, "$defs": definitions}


def _describe(definition: dict[str, Any], section: SectionDoc) -> None:
    definition["description"] = section.meaning
    for field in section.fields:
        entry = definition["properties"][field.path.rpartition(".")[2]]
        entry["description"] = field.meaning + (f" [{field.unit}]" if field.unit else "")
        entry["x-class"] = field.field_class
        if field.unit:
            entry["x-unit"] = field.unit
