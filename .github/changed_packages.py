"""Print the packages whose tests must run after a change, as `packages=[...]` for a workflow's matrix.

    python3 .github/changed_packages.py BASE_COMMIT

A package is affected when a file of it changed, or of a sibling that it depends on (read from the `pyproject.toml`
files), or anything that all of them share. Without a usable base commit every package is.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COVERAGE = {"foundry-config": 95, "foundry-data": 90, "foundry-model": 85, "foundry-train": 85, "foundry-cli": 70}
SHARED = ("pyproject.toml", "uv.lock", ".github/")


def main() -> None:
    names = affected_packages(changed_files(sys.argv[1] if len(sys.argv) > 1 else ""))
    rows = [{"name": name, "module": name.replace("-", "_"), "coverage": COVERAGE[name]} for name in names]
    sys.stdout.write(f"packages={json.dumps(rows)}\n")


def changed_files(base: str) -> list[str] | None:
    """List the files that differ from the commit `base`; None if there is no such commit."""
    if not base.strip("0"):
        return None
    result = subprocess.run(
        ["git", "diff", "--name-only", f"{base}...HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return result.stdout.splitlines() if result.returncode == 0 else None


def affected_packages(files: list[str] | None) -> list[str]:
    """Return the names of the packages that a change of `files` (None: of anything) reaches, in a fixed order."""
    if files is None or any(file.startswith(SHARED) for file in files):
        return list(COVERAGE)
    changed = {file.split("/")[1] for file in files if file.startswith("packages/")}
    return [name for name in COVERAGE if changed & ({name} | siblings_below(name))]


def siblings_below(package: str) -> set[str]:
    """Return the packages of the workspace that `package` depends on, directly or through others."""
    text = (ROOT / "packages" / package / "pyproject.toml").read_text(encoding="utf-8")
    requirements = tomllib.loads(text)["project"]["dependencies"]
    direct = {name for name in (re.split(r"[^A-Za-z0-9-]", r)[0] for r in requirements) if name in COVERAGE}
    return direct.union(*(siblings_below(name) for name in direct))


if __name__ == "__main__":
    main()
