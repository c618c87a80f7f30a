"""Pages that are made from the structs, and the copies of them that are kept."""

import json
import re
from pathlib import Path

import pytest

from foundry_config import (
    CorpusCounts,
    field_classes,
    json_schema,
    parse_config,
    plan_training,
    reference_markdown,
    template_yaml,
    write_reference,
)
from foundry_config.checkpoint_schedule import PRESETS, SPACINGS
from foundry_config.reference import schema_text

ROOT = Path(__file__).parents[3]
STALE = "is stale: call foundry_config.write_reference(Path('.')) from the root of the repository"
PAGES = {
    "docs/configuration.md": reference_markdown,
    "docs/config.schema.json": schema_text,
    "configs/template.yaml": template_yaml,
}


def field_rows() -> list[str]:
    tables = reference_markdown().partition("## How long a run is")[0]
    return [line for line in tables.splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("page", PAGES)
def test_the_kept_copy_of_a_page_is_up_to_date(page):
    assert (ROOT / page).read_text(encoding="utf-8") == PAGES[page](), f"{page} {STALE}"


def test_write_reference_writes_the_three_pages(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "configs").mkdir()

    written = write_reference(tmp_path)

    assert sorted(str(path.relative_to(tmp_path)) for path in written) == sorted(PAGES)


def test_the_reference_has_a_row_for_every_field():
    rows = [row.split("`")[1] for row in field_rows()]

    assert rows.count("batch_size") == 2  # of data and of evaluation
    assert sorted(rows) == sorted(path.rpartition(".")[2] for path in field_classes())


def test_every_row_of_the_reference_has_a_class_and_a_meaning():
    for row in field_rows():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        assert len(cells) == 7
        assert cells[5] in ("identity", "numeric", "free")
        assert len(cells[6]) > 10


def test_a_page_that_a_text_names_is_a_link_in_the_reference_and_a_path_elsewhere():
    [row] = [row for row in field_rows() if row.startswith("| `dataset_manipulation`")]

    assert row.endswith("All steps and options: [ablations.md](ablations.md). |")
    assert "docs/ablations.md" in template_yaml()


def test_the_template_holds_every_field_and_is_a_valid_config():
    text = template_yaml()
    config = parse_config(text)

    keys = re.findall(r"^ *(\w+): \S", text, re.MULTILINE)
    assert sorted(keys) == sorted(path.rpartition(".")[2] for path in field_classes())
    assert config.experiment_name == "template"


def test_the_schema_describes_and_bounds_every_field():
    schema = json_schema()

    for path, tag in field_classes().items():
        section, _, name = path.rpartition(".")
        properties = schema["properties"]
        if section:
            properties = schema["$defs"][properties[section]["$ref"].rpartition("/")[2]]["properties"]
        entry = properties[name]
        assert entry["x-class"] == tag
        assert len(entry["description"]) > 10
    assert schema["$defs"]["DataConfig"]["properties"]["batch_size"]["minimum"] == 1
    assert schema["$defs"]["DataConfig"]["properties"]["batch_size"]["x-unit"] == "sequences"
    assert schema["additionalProperties"] is False
    json.dumps(schema)


def test_the_schema_wants_required_fields_unless_the_file_includes_others():
    schema = json_schema()

    assert "include" in schema["properties"]
    assert schema["if"] == {"required": ["include"]}
    assert schema["else"]["required"] == ["experiment_name", "data", "tokenizer", "model", "training"]
    assert schema["else"]["properties"]["training"]["required"] == ["output_dir", "learning_rate"]


def test_the_page_names_every_preset_and_spacing_and_its_example_is_right():
    page = reference_markdown()

    assert all(f"`{name}`" in page for name in PRESETS)
    assert all(f"`{{{name}: " in page for name in SPACINGS)
    config = parse_config(template_yaml(), overrides=["training.auto_generate_checkpoints=true", "training.epochs=2"])
    plan = plan_training(config, CorpusCounts(333 * 16, 333 * 16 * 128, 1))
    steps = [str(milestone.step) for milestone in plan.checkpoints]
    flat = " ".join(page.split())
    assert f"{', '.join(steps[:3])} ... {', '.join(steps[18:20])} in the first epoch" in flat
    assert f"{', '.join(steps[20:])} in the second" in flat
