"""Every command that the documentation shows exists with its options, and every Python example of a README runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from foundry_cli import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "packages").glob("*/README.md")),
]
SCRIPTS = sorted((ROOT / "docs" / "slurm").glob("*.sbatch"))
PLACEHOLDERS = re.compile(r"\.\.\.|\[|<")


def blocks(page: Path, *languages: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [
        body
        for language, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        if language in languages
    ]


def foundry_commands(page: Path) -> list[str]:
    """The lines of shell blocks (or of a script) that call foundry, without prompt, comment and `uv run`."""
    texts = (
        [page.read_text(encoding="utf-8")]
        if page.suffix == ".sbatch"
        else blocks(page, "bash", "sh", "shell", "console")
    )
    lines = [line for text in texts for line in text.replace("\\\n", " ").splitlines()]
    found = []
    for line in lines:
        match = re.search(r"(?:^|\s|/)foundry ((?:[a-z]|--).*)", line.split(" # ")[0].split("  #")[0])
        if match and not line.lstrip().startswith("#"):
            found.append(re.split(r"\s(?:&&|\|\|?|>|;)\s", match.group(1))[0].strip())
    return found


COMMANDS = [
    pytest.param(line, id=f"{page.name}: {line}"[:100])
    for page in [*PAGES, *SCRIPTS]
    for line in foundry_commands(page)
]


def option_names(words: list[str]) -> tuple[list[str], set[str]]:
    """Follow words down to a command; return what is left of the words, and the options that the command knows."""
    command = typer.main.get_command(app)
    while words and hasattr(command, "commands") and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    known = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}
    assert not hasattr(command, "commands") or not words or words[0].startswith("-"), f"no command {words[:1]}"
    return words, known | {"--debug", "-h", "--help"}


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_in_the_documentation_exists_with_its_options(line):
    words, known = option_names(shlex.split(line))

    used = {
        word.split("=")[0]
        for word in words
        if word.startswith("-") and word != "-" and not re.fullmatch(r"-\d.*", word)
    }

    assert used <= known


def test_the_documentation_shows_commands():
    assert len(COMMANDS) > 10


def test_a_test_that_the_documentation_names_exists():
    page = ROOT / "docs" / "reliability.md"
    named = set(re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")))
    defined = {
        name
        for folder in (ROOT / "tests-e2e", *ROOT.glob("packages/*/tests"))
        for file in folder.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    }

    assert len(named) > 50
    assert named - defined == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))

    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]

    assert missing == []


# those of the other packages run in their own tests, which have paid for the imports already
@pytest.mark.parametrize("package", ["foundry-cli"])
def test_the_example_of_a_packages_readme_runs(package, tmp_path):
    examples = blocks(ROOT / "packages" / package / "README.md", "python")
    assert examples, f"the README of {package} shows no Python example"

    result = subprocess.run(
        [sys.executable, "-c", examples[0]], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=250
    )

    assert result.returncode == 0, result.stderr


def test_the_root_config_is_what_init_writes(tmp_path):
    from foundry_cli.commands.init import starter_text

    written = starter_text(corpus="builtin:python-docs", name="quickstart", schema="docs/config.schema.json")

    assert (ROOT / "foundry.yaml").read_text(encoding="utf-8") == written
