"""docs/ablations.md is true: its tables are those of the code, its examples give what it says, its blocks run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import yaml
from msgspec import inspect

from foundry_config.describing import range_text, type_name
from foundry_config.errors import FoundryError
from foundry_data import TRANSFORMS, Document, run_manipulation, split_by_hash
from foundry_data.documents import MAX_DOCUMENT_BYTES
from foundry_data.receipts import PAIRS, Receipt
from foundry_data.top_up import TopUpReceipt
from foundry_data.transform_command import MESSAGE_CHARACTERS, Command
from foundry_data.transform_duplicates import PERMUTATIONS
from foundry_data.transforms import PER, manipulation_fingerprint

PAGE = Path(__file__).resolve().parent.parent / "docs" / "ablations.md"
TEXT = PAGE.read_text(encoding="utf-8")
FLAT = " ".join(TEXT.split())
SEED = 42
BROKEN = """
def raises(text):
    raise ValueError("no")

def raises_on_all(documents):
    raise ValueError("no")

def shout(text):
    return text.upper()

def counts(text):
    return len(text)

def forgets(documents):
    list(documents)

def eats(documents):
    return [document for document in documents if not document.text]
"""


class Typed(NamedTuple):
    """The folder that the commands of the page were typed in, and what each block said on standard output."""

    folder: Path
    said: dict[str, str]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def block_with(language: str, part: str) -> str:
    [block] = [block for block in blocks(language) if part in block]
    return block


def file_of_page(name: str) -> str:
    """What the page writes into a file."""
    return block_with("bash", f"cat > {name} <<'END'").partition(f"cat > {name} <<'END'\n")[2].partition("END\n")[0]


def table(heading: str) -> list[list[str]]:
    """The rows of the table whose first line begins with `heading`, as cells."""
    lines = TEXT.splitlines()
    [start] = [number for number, line in enumerate(lines) if line.startswith(heading)]
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        rows.append([cell.strip().replace(r"\|", "|") for cell in cells])
    return rows


def code_in(cell: str) -> list[str]:
    """The texts between backticks; those between two of them may hold single ones."""
    return [double or single for double, single in re.findall(r"``(.+?) ?``|`([^`]*)`", cell)]


def run(steps: list, texts: list[str], folder: Path) -> list[str]:
    documents = [Document(text, f"corpus.txt:{number}") for number, text in enumerate(texts, 1)]
    result = run_manipulation(
        documents, steps, seed=SEED, num_workers=1, receipts_dir=folder / "receipts", base_dir=folder
    )
    return [document.text for document in result]


def in_shell(block: str, folder: Path) -> str:
    environment = {**os.environ, "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]}
    command = ["bash", "-e", "-u", "-o", "pipefail", "-c", block]
    answer = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, f"{block}\n{answer.stderr}"
    return answer.stdout


@pytest.fixture(scope="module")
def typed(tmp_path_factory) -> Typed:
    """Type every shell block into an empty folder, with the `foundry` of this environment."""
    folder = tmp_path_factory.mktemp("ablations")
    return Typed(folder, {block: in_shell(block, folder) for block in blocks("bash")})


@pytest.fixture
def project(tmp_path):
    """A folder with functions that do what the page warns of."""
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "my_steps.py").write_text(file_of_page("my_steps.py"))
    (tmp_path / "corpus.txt").write_text("a text\nanother text\n")
    (tmp_path / "base.yaml").write_text(file_of_page("base.yaml").replace("test_fraction: 0.25", "test_fraction: 0"))
    yield tmp_path
    for name in ("broken", "my_steps", "my_verbs"):
        sys.modules.pop(name, None)


def option_rows() -> list[list[str]]:
    """What the table of options has to say, but for the meanings, as the code has it."""
    rows = []
    for name, kind in TRANSFORMS.items():
        for field, info in zip(msgspec.structs.fields(kind), inspect.type_info(kind).fields, strict=True):
            shown = "''" if field.default == "" else json.dumps(field.default) if not field.required else ""
            default = f"`{shown.strip(chr(34))}`" if shown else ""
            rows.append([f"`{name}`", f"`{field.name}`", type_name(info.type), default, range_text(info.type)])
    return rows


def test_the_table_of_options_is_that_of_the_code():
    rows = table("| step | option |")

    assert [row[:5] for row in rows] == option_rows()
    assert all(len(row[5]) > 5 for row in rows)


def test_the_table_of_steps_has_every_step_in_the_order_of_the_code():
    assert [code_in(row[0]) for row in table("| step | what it does |")] == [[name] for name in TRANSFORMS]


@pytest.mark.parametrize("row", table("| step | what it does |"), ids=lambda row: row[0].strip("`"))
def test_the_example_of_a_step_gives_what_the_page_says(row, tmp_path):
    [written] = code_in(row[2])
    step = yaml.safe_load(written)

    assert (step if isinstance(step, str) else step["name"]) == code_in(row[0])[0]
    assert [text.strip() for text in run([step], code_in(row[3]), tmp_path)] == code_in(row[4])


def test_a_hash_split_with_the_seed_of_the_run_draws_the_line_of_what_is_held_out(tmp_path):
    training = [text for text in map(str, range(200)) if not split_by_hash(text, 0.25, SEED)]

    def side(**options):
        return run([{"name": "hash_split", "fraction": 0.25, **options}], training, tmp_path)

    assert side(keep="test", seed=SEED) == []
    assert side(keep="train", seed=SEED) == training
    assert 0 < len(side(keep="test", seed=SEED + 1)) < len(training) / 2


def test_the_numbers_of_the_page_are_those_of_the_code():
    command = {field.name: field.default for field in msgspec.structs.fields(Command)}

    assert f"More than {MAX_DOCUMENT_BYTES // 2**20} MiB are refused" in FLAT
    assert f"the last {MESSAGE_CHARACTERS} characters" in FLAT
    assert f"`timeout_seconds` per document, {command['timeout_seconds']:g} by default, at most 86,400" in FLAT
    assert list(command) == ["command", "timeout_seconds"]
    assert f"up to {PAIRS} documents before and after" in FLAT
    assert f"from {PERMUTATIONS} numbers" in FLAT
    assert [f"`per: {per}`" in FLAT for per in PER] == [True, True]


def test_the_fields_of_a_receipt_are_those_of_the_code():
    named = [name for row in table("| field of a step's receipt |") for name in code_in(row[0])]
    layout = next(line for line in TEXT.splitlines() if "top-up.json" in line)

    assert {*named, "format"} == set(Receipt.__struct_fields__)
    assert set(re.findall(r"\w+_\w+", layout.partition("replacement_corpus:")[2])) <= set(
        TopUpReceipt.__struct_fields__
    )


FAILING = [
    {"name": "my_steps:join_pairs", "seperator": "; "},
    {"name": "broken:raises", "per": "document"},
    {"name": "broken:raises_on_all"},
    {"name": "broken:shout"},
    {"name": "broken:counts", "per": "document"},
    {"name": "broken:forgets"},
    {"name": "broken:eats"},
]


def test_every_mistake_of_the_page_is_made():
    assert len(table("| what | message |")) == len(FAILING)


@pytest.mark.parametrize(("row", "step"), list(zip(table("| what | message |"), FAILING)))
def test_a_mistake_is_answered_as_the_page_says(project, foundry, row, step):
    [said], exit_code = code_in(row[1]), int(row[2])

    answer = foundry("preprocess", project / "base.yaml", "--set", f"dataset_manipulation=[{json.dumps(step)}]")

    assert said in " ".join(answer.err.split())
    assert answer.code == exit_code
    if exit_code == 2:
        checked = foundry("validate", project / "base.yaml", "--set", f"dataset_manipulation=[{json.dumps(step)}]")
        assert checked.code == exit_code
    else:
        assert not list(project.glob("data/prepared/text-*"))  # nothing half made counts as done


def test_named_conditions_belong_into_the_matrix_only(project, foundry):
    answer = foundry("validate", project / "base.yaml", "--set", "dataset_manipulation=[{mine: [lowercase]}]")

    assert answer.code == 2


def test_the_fingerprint_follows_what_the_page_says_and_no_more(project):
    def edited(text: str, name: str, **options) -> bool:
        step = {"name": "my_steps:swap", "per": "document", "rate": 0.3, **options}
        before = manipulation_fingerprint([step], seed=SEED, base_dir=project)
        (project / name).write_text(text)
        return manipulation_fingerprint([step], seed=SEED, base_dir=project) != before

    (project / "my_verbs.py").write_text("GO = 1")
    (project / "my_steps.py").write_text("import my_verbs\ndef swap(text, rate, file=None, seed=0): return text")
    (project / "listed.txt").write_text("garden")

    assert edited("GO = 1  # a comment", "my_verbs.py")
    assert edited("road", "listed.txt", file="listed.txt")
    assert not edited("sea", "listed.txt", file=["listed.txt"])
    assert not edited("house", "listed.txt")


@pytest.mark.slow
def test_programs_meet_what_the_page_promises(tmp_path, monkeypatch):
    monkeypatch.setenv("FOUNDRY_PAGE", "inherited")

    def one(*command: str) -> list[str]:
        return run([{"command": list(command)}], ["a line"], tmp_path)

    (tmp_path / "here.sh").write_text("#!/bin/sh\npwd\n")
    (tmp_path / "here.sh").chmod(0o755)

    assert one("cat") == ["a line"]
    assert one("wc", "-l")[0].split() == ["0"]  # no line break is added
    assert one("./here.sh") == [f"{tmp_path.resolve()}\n"]
    assert one("sh", "-c", "printf '%s' $FOUNDRY_PAGE; echo unseen >&2") == ["inherited"]
    assert one("sh", "-c", "tr a-z A-Z | rev") == ["ENIL A"]
    assert one("true") == one("echo") == []
    assert one("sed", "/line/d") == []
    with pytest.raises(FoundryError, match="grep -v line ended with status 1"):
        one("grep", "-v", "line")
    assert "[sh, -c, 'tr a-z A-Z \\| rev']" in TEXT


@pytest.mark.slow
def test_every_shell_block_of_the_page_runs_and_leaves_what_it_says(typed):
    layout = {path.name for path in typed.folder.glob("data/prepared/text-*/*")}
    receipts = {path.name for path in typed.folder.glob("data/prepared/text-*/receipts/*.json")}

    assert layout == {"documents.jsonl", "documents.sha256", "receipts"}
    assert {"00-drop_words.json", "01-top-up.json", "00-sed.json", "01-python.json"} <= receipts
    assert {"00-my_steps-swap.json", "01-my_steps-drop_listed.json", "02-my_steps-join_pairs.json"} <= receipts
    assert list(typed.folder.glob("data/prepared/text-*/receipts/replacement/00-drop_words.json"))
    assert typed.said[block_with("bash", "head -n 3")].count("near house in 1969 was not ghost. who told") == 2


@pytest.mark.slow
def test_the_functions_and_programs_of_the_page_do_what_they_are_for(typed):
    def texts(step: str) -> list[str]:
        [receipt] = typed.folder.glob(f"data/prepared/text-*/receipts/{step}.json")
        lines = (receipt.parents[1] / "documents.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["text"] for line in lines]

    joined, shouted = texts("02-my_steps-join_pairs"), texts("01-python")

    assert not any({"garden", "road"} & set(text.split()) for text in joined)
    assert [text.count("1969") for text in joined[:-1]] == [2] * (len(joined) - 1)
    assert any("was not a ghost" not in text for text in joined[:-1])  # words were swapped
    assert all("NOT A SPIRIT" in text or text.startswith("LOREM") for text in shouted)


@pytest.mark.slow
def test_the_list_of_runs_is_the_one_that_the_page_shows(typed):
    [shown] = blocks("text")

    assert typed.said[block_with("bash", "study.yaml")].startswith(shown)


@pytest.mark.slow
def test_the_corpus_is_topped_up_as_the_page_says(typed):
    [path] = typed.folder.glob("data/prepared/text-*/receipts/01-top-up.json")
    receipt = json.loads(path.read_text(encoding="utf-8"))
    lines = (path.parents[1] / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    pool = [number for number, line in enumerate(lines) if json.loads(line)["source"].startswith("pool.txt")]

    assert receipt["before"]["words"] < receipt["target_words"]
    assert abs(receipt["after"]["words"] - receipt["target_words"]) <= 13 / 2  # half a document of the pool
    assert pool == list(range(len(lines) - receipt["added_documents"], len(lines)))  # after the corpus


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "said"),
    [("import json", "01-drop_words.json 360 -> 280 words"), ("run_manipulation(", "Document(text='the cat sat.'")],
)
def test_a_python_example_of_the_page_runs(typed, part, said, monkeypatch, capsys):
    monkeypatch.chdir(typed.folder)

    exec(block_with("python", part), {})

    assert said in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_refuses_a_text_whose_step_was_edited_and_keeps_and_reports_its_receipts(
    typed, foundry, tmp_path, monkeypatch
):
    folder = Path(shutil.copytree(typed.folder, tmp_path / "copy"))
    monkeypatch.chdir(folder)
    assert foundry("train", "own.yaml").code == 0
    module = folder / "my_steps.py"
    text = module.read_text(encoding="utf-8")

    module.write_text(f"{text}# a comment\n", encoding="utf-8")
    refused = foundry("train", "own.yaml")
    module.write_text(text, encoding="utf-8")
    went_on = foundry("train", "own.yaml")
    kept = sorted(path.name for path in Path("runs/base/receipts").iterdir())
    reported = foundry("report", "runs/base", "--out", "report.html")

    assert (refused.code, went_on.code, reported.code) == (5, 0, 0)
    assert kept == ["00-my_steps-swap.json", "01-my_steps-drop_listed.json", "02-my_steps-join_pairs.json"]
    assert "foundry-receipt" in Path("report.html").read_text(encoding="utf-8")
