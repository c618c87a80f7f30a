"""Loading: every problem at once with its place, overrides, the environment."""

import json
import re

import msgspec
import pytest

from foundry_config import ConfigError, config_digest, config_from_dict, load_config, parse_config, replace_fields

TEN_MISTAKES = """\
experiment_name: ten mistakes
data:
  source_corpus: text.txt
  batch_size: 8
  batch_size: 16
  max_sequence_lenght: 128
tokenizer:
  vocab_size: "4096"
model:
  layers: 0
  embedding_size: 128
  hidden_size: 128
  intermediate_hidden_size: 512
  attention_heads: 5
training:
  output_dir: runs/ten
  learning_rate: fast
  optimizer: adamv
  precision: bf61
  checkpoint_schedule: [1, pythea]
evaluaton:
  every_steps: 10
"""


def test_ten_mistakes_are_reported_together_with_their_lines_and_columns(tmp_path):
    path = tmp_path / "ten.yaml"
    path.write_text(TEN_MISTAKES)

    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={})

    assert [str(problem).removeprefix(str(path)) for problem in caught.value.problems] == [
        ":1:18: experiment_name: must be a name of at most 128 letters, digits, `.`, `_` and `-` that starts with a "
        "letter or digit, got 'ten mistakes'",
        ":5:3: data.batch_size: this key is given twice; it stands on line 4 already",
        ":6:3: data.max_sequence_lenght: unknown field. Did you mean 'max_sequence_length'?",
        ":8:15: tokenizer.vocab_size: must be an integer of at least 8 and at most 2,147,483,647, got '4096'; this is "
        "text, leave out the quotes",
        ":10:11: model.layers: must be an integer of at least 1 and at most 10,000, got 0",
        ":14:20: model.attention_heads: 5 heads do not divide hidden_size 128; the nearest is 4",
        ":17:18: training.learning_rate: must be a number greater than 0 and at most 1,000, got 'fast'",
        ":18:14: training.optimizer: unknown optimizer 'adamv'. Did you mean 'adamw'? Known: adamw, muon, sgd, "
        "adafactor, or `module:function`",
        ":19:14: training.precision: must be one of bf16, fp16, fp32, tf32, got 'bf61'. Did you mean 'bf16'?",
        ":20:28: training.checkpoint_schedule[1]: unknown preset 'pythea'. Did you mean 'pythia'? Known: pythia, "
        "babylm-strict-small, babylm-strict, epochs",
        ":21:1: evaluaton: unknown field. Did you mean 'evaluation'?",
    ]
    assert str(caught.value).startswith(f"11 problems in {path}:\n")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "  batch_size: 2\n",
            ["x.yaml:2:1: data.batch_size: this field is missing; it must be an integer of at least 1"],
        ),
        (
            "  layers: 2\n",
            ["x.yaml:10:1: model.layers: this field is missing; it must be an integer of at least 1 and at most "],
        ),
        ("experiment_name: test_exp\n", ["x.yaml:1:1: experiment_name: this field is missing; it must be a name"]),
    ],
)
def test_a_missing_field_is_named_in_full_at_its_section(tiny_yaml, line, expected):
    with pytest.raises(ConfigError) as caught:
        parse_config(tiny_yaml.replace(line, ""), name="x.yaml")

    assert [
        str(problem)[: len(text)] for problem, text in zip(caught.value.problems, expected, strict=True)
    ] == expected


def test_a_missing_section_is_named_at_the_start_of_the_file(tiny_yaml):
    with pytest.raises(ConfigError) as caught:
        parse_config(tiny_yaml.partition("training:")[0], name="x.yaml")

    assert str(caught.value) == "x.yaml:1:1: training: this section is missing"


def test_a_misspelled_required_field_is_one_problem(tiny_yaml):
    with pytest.raises(ConfigError) as caught:
        parse_config(tiny_yaml.replace("vocab_size", "vocabsize").replace("model:", "modle:"), name="x.yaml")

    assert [problem.path for problem in caught.value.problems] == ["tokenizer.vocabsize", "modle"]


def test_what_is_missing_is_missing_in_the_file_whatever_an_override_says_of_its_section(tiny_yaml):
    text = tiny_yaml.replace("  batch_size: 2\n", "").partition("training:")[0]
    with pytest.raises(ConfigError) as caught:
        parse_config(text, name="x.yaml", overrides=["data.packing=best_fit", "training.epochs=2"])

    assert [f"{problem.place}: {problem.path}" for problem in caught.value.problems] == [
        "x.yaml:1:1: training.output_dir",
        "x.yaml:1:1: training.learning_rate",
        "x.yaml:2:1: data.batch_size",
    ]


def test_a_terminal_gets_the_source_line_and_a_caret():
    with pytest.raises(ConfigError) as caught:
        parse_config("model:\n  layers: 0\n", name="x.yaml")

    assert "x.yaml:2:11: model.layers: must be" in caught.value.with_source()
    assert "\n    2 |   layers: 0\n      |           ^" in caught.value.with_source()


def test_yaml_toml_and_json_make_equal_configs(tmp_path, tiny_config, tiny_yaml):
    data = msgspec.to_builtins(parse_config(tiny_yaml))
    (tmp_path / "a.yaml").write_text(tiny_yaml)
    (tmp_path / "a.json").write_text(json.dumps(data))
    (tmp_path / "a.toml").write_text(_toml(data))

    configs = [load_config(tmp_path / f"a.{suffix}", environ={}) for suffix in ("yaml", "json", "toml")]

    assert configs == [tiny_config] * 3
    assert len({config_digest(config) for config in configs}) == 1


@pytest.mark.parametrize(
    ("name", "text", "places"),
    [
        (
            "a.json",
            '{\n "model": {\n  "layers": 0,\n  "dropot": 1\n }\n}',
            [":3:13: model.layers", ":4:3: model.dropot"],
        ),
        ("a.toml", "[model]\nlayers = 0\ndropot = 1\n", [":2:10: model.layers", ":3:1: model.dropot"]),
    ],
)
def test_toml_and_json_problems_have_lines_and_columns(tmp_path, name, text, places):
    (tmp_path / name).write_text(text)

    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / name, environ={})

    for place in places:
        assert f"{name}{place}: " in str(caught.value)


def test_overrides_win_over_the_environment_and_that_over_the_file(tmp_path, tiny_yaml):
    (tmp_path / "a.yaml").write_text(tiny_yaml)
    environ = {"FOUNDRY__TRAINING__LEARNING_RATE": "2e-3", "FOUNDRY__RANDOM_SEED": "7", "HOME": "x"}

    config = load_config(tmp_path / "a.yaml", overrides=["training.learning_rate=3e-4"], environ=environ)

    assert (config.training.learning_rate, config.random_seed) == (3e-4, 7)


def test_the_environment_of_the_process_is_read_by_default(tmp_path, tiny_yaml, monkeypatch):
    (tmp_path / "a.yaml").write_text(tiny_yaml)
    monkeypatch.setenv("FOUNDRY__DATA__PACKING", "best_fit")

    assert load_config(str(tmp_path / "a.yaml")).data.packing == "best_fit"


def test_overrides_take_lists_nulls_mappings_and_deep_paths(tiny_yaml):
    config = parse_config(
        tiny_yaml,
        overrides=[
            "training.checkpoint_schedule=[1, {every_steps: 5}]",
            "training.warmup_steps=",
            "logging.dir=null",
            "model.extra.scale.inner=1.5",
            "model.extra.scale.outer=x=y",
            "experiment_name = spaced ",
            "matrix.training.learning_rate=[1e-3, 1e-4]",
        ],
    )

    assert config.training.checkpoint_schedule == (1, {"every_steps": 5})
    assert config.training.warmup_steps is None
    assert config.logging.dir is None
    assert config.model.extra == {"scale": {"inner": 1.5, "outer": "x=y"}}
    assert config.experiment_name == "spaced"
    assert config.matrix == {"training.learning_rate": [1e-3, 1e-4]}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.learning_rate", "--set training.learning_rate: write an override as section.field=value"),
        ("=3", "--set =3: write an override as section.field=value"),
        ("training..epochs=3", "--set training..epochs=3: write an override as section.field=value"),
        ("include=a.yaml", "--set include=a.yaml: include: only a file can include another file"),
        ("matrix.model.lyers=[1]", "--set matrix.model.lyers=[1]: matrix.model.lyers: unknown field. Did you mean"),
        ("experiment_name=7", "got 7; put text that looks like this in quotes"),
        (
            "training.lerning_rate=1",
            "--set training.lerning_rate=1: training.lerning_rate: unknown field. Did you mean",
        ),
        ("training.learning_rate=-1", "--set training.learning_rate=-1: training.learning_rate: must be a number"),
        ("data=5", "--set data=5: data: must be a section of fields, got 5"),
        ("random_seed.x=5", "--set random_seed.x=5: random_seed: must be an integer of at least 0, got a mapping"),
        ("random_seed=[1", "--set random_seed=[1: random_seed: not valid YAML"),
        ("random_seed=\x1b[0m", "--set random_seed=\\x1b[0m: random_seed: control characters"),
        (".".join("a" * 5000) + "=1", "names more than 40 levels"),
        ("model.extra={a: 1, a: 2}", "model.extra: this key is given twice"),
    ],
)
def test_a_wrong_override_is_named_instead_of_a_line(tiny_yaml, override, message):
    with pytest.raises(ConfigError) as caught:
        parse_config(tiny_yaml, overrides=[override])

    assert message in str(caught.value)


def test_quotes_are_advised_only_where_they_would_help(tiny_yaml):
    with pytest.raises(ConfigError) as caught:
        parse_config(tiny_yaml, overrides=["training.stop_after=3"])

    assert str(caught.value).endswith("must be a time such as `90s` or `3h50m`, or null, got 3")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FOUNDRY__TRAINING__LERNING_RATE", "training.lerning_rate: unknown field. Did you mean 'FOUNDRY__TRAINING__"),
        ("FOUNDRY__TRAINING_EPOCHS", "training_epochs: unknown field. Did you mean 'FOUNDRY__TRAINING__EPOCHS'?"),
        ("FOUNDRY_TRAINING__EPOCHS", "two underscores stand before a section and before a field. Did you mean"),
        ("foundry_random_seed", "Did you mean 'FOUNDRY__RANDOM_SEED'?"),
        ("FOUNDRY__XYZ", "xyz: unknown field. Known: experiment_name, data"),
        ("FOUNDRY__TRAINING__", "name a variable FOUNDRY__SECTION__FIELD"),
        ("FOUNDRY__", "name a variable FOUNDRY__SECTION__FIELD"),
        ("FOUNDRY__INCLUDE", "include: only a file can include another file"),
        ("FOUNDRY__MODEL__LAYERS__X", "model.layers: must be an integer"),
    ],
)
def test_a_variable_that_sets_no_field_is_refused_with_the_nearest_right_one(tmp_path, tiny_yaml, name, message):
    (tmp_path / "a.yaml").write_text(tiny_yaml)

    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "a.yaml", environ={name: "1"})

    assert str(caught.value).startswith(f"environment variable {name}: ")
    assert message in str(caught.value)


def test_variables_of_other_programs_are_left_alone(tmp_path, tiny_yaml):
    (tmp_path / "a.yaml").write_text(tiny_yaml)
    environ = {"FOUNDRY_HOME": "x", "FOUNDRY_BENCHMARK_STARTED": "1", "FOUNDRYX": "", "FOUNDRY__MODEL__EXTRA__A": "2"}

    assert load_config(tmp_path / "a.yaml", environ=environ).model.extra == {"a": 2}


def test_a_wrong_environment_variable_is_named_instead_of_a_line(tmp_path, tiny_yaml):
    (tmp_path / "a.yaml").write_text(tiny_yaml)

    with pytest.raises(ConfigError, match=r"environment variable FOUNDRY__MODEL__LAYERS: model\.layers: must be"):
        load_config(tmp_path / "a.yaml", environ={"FOUNDRY__MODEL__LAYERS": "none"})


@pytest.mark.parametrize(
    ("written", "home"),
    [
        ("model.learning_rate", "training.learning_rate"),
        ("training.log_every_steps", "logging.log_every_steps"),  # although training has a save_every_steps
    ],
)
def test_a_field_in_the_wrong_section_is_sent_home(tiny_yaml, written, home):
    told = re.escape(f"{written}: unknown field here; did you mean '{home}'")

    with pytest.raises(ConfigError, match=told):
        parse_config(tiny_yaml, overrides=[f"{written}=1"])


def test_whole_floats_are_taken_for_integers(tiny_yaml):
    config = parse_config(tiny_yaml, overrides=["training.train_steps=1e3", "training.epochs=null"])

    assert config.training.train_steps == 1000
    assert type(config.training.train_steps) is int


def test_plain_data_of_a_run_becomes_a_config_again(tiny_config):
    assert config_from_dict(msgspec.to_builtins(tiny_config)) == tiny_config


def test_problems_of_plain_data_name_what_was_read(tiny_config):
    data = msgspec.to_builtins(tiny_config) | {"modl": 1}

    with pytest.raises(ConfigError, match=r"run.json: modl: unknown field. Did you mean 'model'"):
        config_from_dict(data, name="run.json")


@pytest.mark.parametrize("data", [[], "text", None, 5, {1: 2}, {"data": {2: 3}}, {"\ud800": 1}, {"data": []}])
def test_data_that_is_no_config_is_refused(data):
    with pytest.raises(ConfigError, match=r"run\.json: "):
        config_from_dict(data, name="run.json")


def test_replace_fields_makes_a_validated_copy(tiny_config):
    changed = replace_fields(tiny_config, {"training.learning_rate": 1e-2, "model.extra.scale": 2})

    assert changed.training.learning_rate == 1e-2
    assert changed.model.extra == {"scale": 2}
    assert tiny_config.training.learning_rate == 1e-4


@pytest.mark.parametrize("changes", [{"training.lr": 1}, {"random_seed.x": 1}, {"model.layers": -1}])
def test_replace_fields_refuses_what_does_not_fit(tiny_config, changes):
    with pytest.raises(ConfigError):
        replace_fields(tiny_config, changes)


def test_a_text_cannot_include_a_file(tiny_yaml):
    with pytest.raises(ConfigError, match="<config>:33:1: include: only a file can include another file"):
        parse_config(tiny_yaml + "include: other.yaml\n")


def _toml(data: dict) -> str:
    """Write a config as TOML, which has no null; its scalars and lists are those of JSON."""
    top = {key: value for key, value in data.items() if not isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in top.items()]
    for section, fields in data.items():
        if section not in top:
            lines.append(f"[{section}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in fields.items() if value is not None]
    return "\n".join(lines)
