"""Ten thousand broken documents: never a traceback, always a place, never long, never large."""

import json
import resource
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_config import ConfigError, config_from_dict, parse_config
from foundry_config.yaml_writer import write_yaml

EXAMPLES, BATCH = 500, 20  # 10,000 documents
SECONDS, MEBIBYTES = 1.0, 100

SNIPPETS = [
    *(
        ".inf",
        "-.inf",
        ".nan",
        "-1",
        "0",
        "1e400",
        "9" * 400,
        "1_000",
        "12:30:45",
        "010",
        "0x",
        "true",
        "no",
        "null",
        "~",
    ),
    *('"', "'", "''", '"\\ud800"', '"\\x00"', "|", ">", "*a", "&a", "&a [*a]", "&a {b: *a}", "!!python/name:os.system"),
    *(
        "!!int x",
        "!foo",
        "[",
        "]",
        "{",
        "}",
        "[1, 2",
        "{a: 1, a: 2}",
        "[[[[1]]]]",
        "- - -",
        "? :",
        ": :",
        "%",
        "@",
        "`",
    ),
    *(
        "\t",
        "\x1b[31m",
        "\x00",
        "\x85",
        "\u2028",
        "\ufeff",
        "🦙",
        "\ud800",
        "é" * 50,
        "a" * 2000,
        "#",
        "---",
        "...",
        "<<: *a",
    ),
    *(
        "[" * 60 + "]" * 60,
        "{a: " * 50,
        "&x [1, *x]",
        "include: x.yaml",
        "include: [",
        "model:",
        "matrix: {model.layers: [1]}",
    ),
    *("[&a [x, x], &b [*a, *a], &c [*b, *b]]", "adamv", "2024-01-01", "!!float 1", "1.5.2", "[.nan]", "{x: {y: .inf}}"),
]


DATA = {  # every required field, and one of every kind of type
    "experiment_name": "t",
    "random_seed": 7,
    "dataset_manipulation": ["lowercase"],
    "matrix": {},
    "data": {"source_corpus": "x", "batch_size": 2, "max_sequence_length": 32, "test_fraction": 0.1, "shuffle": True},
    "tokenizer": {"vocab_size": 1000, "user_defined_symbols": ["<a>", "<b>"]},
    "model": {
        "layers": 2,
        "embedding_size": 64,
        "hidden_size": 64,
        "intermediate_hidden_size": 128,
        "attention_heads": 2,
        "key_value_heads": 1,
    },
    "training": {
        "output_dir": "out",
        "learning_rate": 1e-4,
        "epochs": 2.0,
        "micro_batch_size": "auto",
        "optimizer": "adamw",
        "precision": "bf16",
        "stop_after": "3h",
        "checkpoint_schedule": [1, "pythia", {"every_steps": 5}],
    },
    "evaluation": {"minimal_pairs": ["a", "b"], "batch_size": 4},
}


@pytest.fixture(scope="module")
def valid_texts() -> dict[str, str]:
    """One config in the three formats."""
    texts = {"yaml": write_yaml(DATA), "json": json.dumps(DATA, indent=1), "toml": toml(DATA)}
    assert all(parse_config(text, format=name) == config_from_dict(DATA) for name, text in texts.items())
    return texts


def toml(data: dict) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in data.items() if not isinstance(value, dict)]
    for section in (key for key, value in data.items() if isinstance(value, dict)):
        lines.append(f"[{section}]")
        for key, value in data[section].items():
            if key == "checkpoint_schedule":
                lines.append(f'{key} = [1, "pythia", {{every_steps = 5}}]')
            elif value is not None:
                lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines)


# One draw of bytes for a batch of documents: drawing every number by itself takes longer than all the checks.
MUTATIONS, SIZE = 4, 3
DOCUMENT_BYTES = 2 + MUTATIONS * SIZE
batches = st.binary(min_size=BATCH * DOCUMENT_BYTES, max_size=BATCH * DOCUMENT_BYTES)


def document_of(code: bytes) -> tuple[str, list[tuple[int, int, int]]]:
    """Return the format and the changes that some bytes stand for."""
    format_name = ("yaml", "yaml", "json", "toml")[code[0] % 4]
    steps = [code[at : at + SIZE] for at in range(2, DOCUMENT_BYTES, SIZE)][: code[1] % MUTATIONS + 1]
    return format_name, [(kind % 7, place, snippet % len(SNIPPETS)) for kind, place, snippet in steps]


def mutated(text: str, changes: list[tuple[int, int, int]]) -> str:
    """Return `text` after a few changes, each (kind, place, snippet)."""
    for kind, place, number in changes:
        lines, snippet = text.split("\n"), SNIPPETS[number]
        at = place % len(lines)
        key, separator, _ = lines[at].partition(":")
        if kind == 0:  # another value
            lines[at] = f"{key}{separator} {snippet}"
        elif kind == 1:  # another key
            lines[at] = snippet + lines[at][place % 7 :]
        elif kind == 2:  # a line more
            lines.insert(at, " " * (place % 5) + snippet)
        elif kind == 3:  # a line twice
            lines.insert(at, lines[at])
        elif kind == 4:  # another indentation
            lines[at] = " " * (number % 9) + lines[at].strip()
        elif kind == 5:  # a line less
            del lines[at]
        else:  # cut in the middle, and something else goes on
            lines[at:] = [lines[at][: number % 15] + snippet]
        text = "\n".join(lines)
    return text


@pytest.mark.slow
def test_ten_thousand_documents_are_taken_or_refused_with_a_place(valid_texts):
    documents: list[str] = []

    @given(batch=batches)
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    def check(batch):
        for start in range(0, len(batch), DOCUMENT_BYTES):
            format_name, changes = document_of(batch[start : start + DOCUMENT_BYTES])
            documents.append(mutated(valid_texts[format_name], changes))
            take_or_refuse_with_a_place(documents[-1], format_name)

    check()

    assert len(documents) >= EXAMPLES * BATCH
    assert len(set(documents)) > 9000


def take_or_refuse_with_a_place(text: str, format_name: str) -> None:
    before, start = peak_mebibytes(), time.process_time()

    try:
        parse_config(text, format=format_name, name="x.conf")
    except ConfigError as error:
        assert error.problems
        for problem in error.problems:
            assert str(problem).startswith("x.conf:"), problem
            assert problem.place.line >= 1
            assert problem.place.column >= 1
        assert str(error).replace("\n", "").isprintable()
        assert error.with_source().replace("\n", "").isprintable()

    assert time.process_time() - start < SECONDS
    assert peak_mebibytes() - before < MEBIBYTES


@given(st.text(max_size=60), st.sampled_from(["yaml", "json", "toml"]))
def test_any_text_at_all_is_refused_with_a_place(text, format_name):
    with pytest.raises(ConfigError) as caught:
        parse_config(text, format=format_name, name="x.conf")

    assert all(str(problem).startswith("x.conf:") for problem in caught.value.problems)


@pytest.mark.slow
@given(st.text(max_size=40))
def test_any_override_is_taken_or_refused_by_name(text):
    try:
        parse_config(write_yaml(DATA), overrides=[text])
    except ConfigError as error:
        assert "--set" in str(error)


def peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
