"""Files, what they include, and files that cannot be read."""

import os

import pytest

from foundry_config import ConfigError, load_config
from foundry_config.layers import MAX_INCLUDES
from foundry_config.tree_builder import MAX_BYTES


def problems(path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={})
    return str(caught.value)


@pytest.fixture
def family(tmp_path, tiny_yaml):
    """A base experiment, and a folder for those laid over it."""
    (tmp_path / "base.yaml").write_text(tiny_yaml)
    (tmp_path / "runs").mkdir()
    return tmp_path


def test_a_file_is_laid_over_what_it_includes(family):
    path = family / "runs" / "a.yaml"
    path.write_text("include: ../base.yaml\nexperiment_name: a\ntraining: {learning_rate: 1e-2}\n")

    config = load_config(path, environ={})

    assert config.experiment_name == "a"
    assert config.training.learning_rate == 1e-2
    assert config.training.train_steps == 10


@pytest.mark.parametrize(
    ("below", "override", "expected"),
    [
        ("warmup_ratio: 0.1", "training.warmup_steps=3", (3, None)),
        ("warmup_steps: 5", "training.warmup_ratio=0.2", (None, 0.2)),
        ("warmup_steps: 5", "training.learning_rate=0.2", (5, None)),
        ("warmup_steps: null, warmup_ratio: 0.1", "training.warmup_steps=null", (None, 0.1)),
    ],
)
def test_a_warm_up_said_in_one_way_displaces_the_other_way_of_the_layer_below(family, below, override, expected):
    path = family / "a.yaml"
    path.write_text(f"include: base.yaml\ntraining: {{{below}}}\n")

    training = load_config(path, overrides=[override], environ={}).training

    assert (training.warmup_steps, training.warmup_ratio) == expected


def test_of_several_included_files_later_ones_win_and_formats_mix(family):
    (family / "seed1.toml").write_text("random_seed = 1\n[training]\nepochs = 5.0\n")
    (family / "seed2.json").write_text('{"random_seed": 2}')
    path = family / "a.yaml"
    path.write_text("include: [base.yaml, seed1.toml, seed2.json]\n")

    config = load_config(path, environ={})

    assert (config.random_seed, config.training.epochs) == (2, 5.0)


def test_a_problem_in_an_included_file_has_its_place_there(family):
    (family / "wrong.yaml").write_text("model:\n  layers: none\n")
    path = family / "a.yaml"
    path.write_text("include: [base.yaml, wrong.yaml]\n")

    assert f"{family / 'wrong.yaml'}:2:11: model.layers: must be" in problems(path)


def test_files_that_include_each_other_are_refused(family):
    (family / "a.yaml").write_text("include: b.yaml\n")
    (family / "b.yaml").write_text("include: [base.yaml, a.yaml]\n")

    message = problems(family / "a.yaml")

    assert f"{family / 'b.yaml'}:1:22: include: files include each other in a cycle:" in message


def test_a_file_that_includes_itself_through_a_link_is_refused(family):
    (family / "a.yaml").write_text("include: link.yaml\n")
    (family / "link.yaml").symlink_to(family / "a.yaml")

    assert "in a cycle" in problems(family / "a.yaml")


def test_a_link_that_leads_to_itself_is_refused(family):
    (family / "loop.yaml").symlink_to(family / "loop.yaml")

    assert "loop.yaml" in problems(family / "loop.yaml")


def test_files_that_double_with_every_include_are_refused(family):
    for level in range(20):
        (family / f"l{level}.yaml").write_text(f"include: [l{level + 1}.yaml, l{level + 1}.yaml]\n")
    (family / "l20.yaml").write_text("random_seed: 1\n")

    assert f"more than {MAX_INCLUDES} files are included" in problems(family / "l0.yaml")


@pytest.mark.parametrize("include", ["5", "[5]", "{a: b}", '""', "[null]"])
def test_include_names_files(family, include):
    (family / "a.yaml").write_text(f"include: {include}\n")

    assert "include: name a file, or a list of files" in problems(family / "a.yaml")


@pytest.mark.parametrize("include", ["nope.yaml", "a.yaml", "5", "broken.yaml", "list.yaml"])
def test_what_a_file_that_cannot_be_included_may_hold_is_not_called_missing(family, include):
    (family / "broken.yaml").write_text("model: {layers: [\n")
    (family / "list.yaml").write_text("- 1\n")
    (family / "a.yaml").write_text(f"include: {include}\nmodel: {{layers: 0}}\n")

    message = problems(family / "a.yaml")

    assert "model.layers: must be" in message
    assert "missing" not in message


def test_a_missing_included_file_is_named_where_it_is_asked_for(family):
    (family / "a.yaml").write_text("include: bose.yaml\n")

    message = problems(family / "a.yaml")

    assert f"{family / 'a.yaml'}:1:10: include: there is no file" in message
    assert "Did you mean 'base.yaml'?" in message


def test_every_file_with_a_problem_is_reported(family):
    (family / "wrong.yaml").write_text("a: [1\n")
    (family / "empty.yaml").write_text("")
    (family / "a.yaml").write_text("include: [wrong.yaml, empty.yaml, gone.yaml]\nmodel: {layers: 0}\n")

    message = problems(family / "a.yaml")

    assert "wrong.yaml:2:1: not valid YAML" in message
    assert "empty.yaml:1:1: the config is empty" in message
    assert "gone.yaml" in message
    assert "model.layers: must be" in message


def test_a_missing_file_is_refused_with_the_nearest_name(family):
    assert "there is no file" in problems(family / "bsae.yaml")
    assert "Did you mean 'base.yaml'?" in problems(family / "bsae.yaml")
    assert "there is no file" in problems(family / "no" / "such" / "folder.yaml")


def test_a_directory_a_pipe_and_an_impossible_name_are_refused(family):
    os.mkfifo(family / "pipe.yaml")

    assert "is a directory, not a config file" in problems(family)
    assert "is not a regular file" in problems(family / "pipe.yaml")
    assert "a\\x00b" in problems(family / "a\0b.yaml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(family):
    (family / "base.yaml").chmod(0)

    assert "cannot read" in problems(family / "base.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ":1:1: the config is empty"),
        (b"# only a comment\n", ":1:1: the config is empty"),
        (b"- a\n- b\n", ":1:1: a config is a mapping of sections"),
        (b"just text", ":1:1: a config is a mapping of sections"),
        (b"a: 1\nb: \xff\n", ":2:4: not UTF-8 text: byte 0xff"),
        (b"\xff\xfea\x00", ":1:1: not UTF-8 text"),
        (b"a: b\n c: \x1b[2J\n", ":2:5: the character '\\x1b' cannot stand in a config"),
        (b"a: 1\n---\nb: 2\n", ":2:1: a second document"),
        ("a: 1\nb: é\u2028".encode(), ":2:5: the character '\\u2028' cannot stand in a config"),
        (b"a: 1\rb: [1\rc: 2\r", ":3:2: not valid YAML"),
        (b"a: [1\nb: 2\n", ":2:2: not valid YAML"),
        (b"x" * (MAX_BYTES + 1), "larger than 256 KiB"),
    ],
)
def test_a_file_that_holds_no_config_says_where_and_why(family, content, message):
    path = family / "a.yaml"
    path.write_bytes(content)

    assert message in problems(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("top.toml", 'include = "base.yaml"\nexperiment_tags = ["a\u2028b\x85c"]\n'),
        ("top.json", '{"include": "base.yaml", "experiment_tags": ["a\u2028b\x85c"]}'),
    ],
)
def test_breaks_of_old_yaml_are_plain_characters_in_toml_and_json(family, name, content):
    (family / name).write_text(content, encoding="utf-8", newline="")

    with pytest.raises(ConfigError) as caught:
        load_config(family / name, environ={})
    assert "unknown field" in str(caught.value)
    assert "cannot stand" not in str(caught.value)


def test_a_byte_order_mark_and_windows_line_ends_are_taken(family, tiny_yaml):
    path = family / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + tiny_yaml.replace("\n", "\r\n").encode())

    assert load_config(path, environ={}).experiment_name == "test_exp"
