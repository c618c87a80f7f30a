"""What a person asks about a run: what state it is in, how far it is, what it saved, where it came from.

    state        stopped by SIGINT at step 453 of 100,000; run it again to go on
    last step    453: loss 0.2391, 129,978 tokens, 33,192 words
    checkpoints  1: 453

Everything here is read from the files of the run, any of which may be missing or damaged.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from foundry_cli.figures import count

SHOWN_CHECKPOINTS = 8
SHOWN_PACKAGES = ("torch", "transformers", "foundry-train")


def overview(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the lines about a run, from what `info --json` prints."""
    rows = [
        ("folder", str(facts["folder"])),
        ("state", state_of(facts)),
        ("experiment", _experiment(facts.get("config"))),
        ("created", str(_get(facts, "run", "created") or "")),
        ("last step", _last_step(facts.get("last_step"))),
        ("checkpoints", _checkpoints(facts["checkpoints"])),
        ("digests", _digests(facts.get("run"))),
        ("made with", _made_with(facts.get("environment"))),
        ("git", _git(_get(facts, "environment", "git"))),
        ("command", " ".join(map(str, _get(facts, "environment", "command") or []))),
        ("damaged", "\n".join(str(value) for value in facts.values() if _is_damage(value))),
    ]
    return [(name, value) for name, value in rows if value]


def state_of(facts: Mapping[str, Any]) -> str:
    """Say in a sentence what state a run is in, and what that asks for."""
    status = facts.get("status")
    status = status if isinstance(status, dict) else {}
    phase, reason, holder = status.get("phase"), status.get("exit_reason"), facts.get("trainer")
    total = _get(facts, "plan", "total_steps")
    step = (facts.get("last_step") or {}).get("step", status.get("step"))
    where = f"step {count(step)}" if isinstance(step, int) else "the start"
    if isinstance(total, int):
        where += f" of {count(total)}"
    if phase == "done":
        return f"done, at {where}"
    if phase == "stopped":
        return f"stopped by {reason} at {where}; run it again to go on"
    if phase == "failed":
        return f"failed at {where}: {reason}"
    if phase is None:
        return ""
    if holder is not None:
        return f"{phase} now, at {where}, by process {holder.get('pid')} on {holder.get('host')}"
    return f"ended without saying why, at {where} (killed, or the machine went down); run it again to go on"


def _experiment(config: Any) -> str:
    if not isinstance(config, dict):
        return ""
    architecture, corpus = _get(config, "model", "architecture"), _get(config, "data", "source_corpus")
    return f"{config.get('experiment_name')}: {architecture} on {corpus}, seed {config.get('random_seed')}"


def _last_step(record: Any) -> str:
    if not isinstance(record, dict):
        return ""
    loss = record.get("loss")
    shown = f"loss {loss:.4f}, " if isinstance(loss, float) else ""
    seen = f"{count(record.get('tokens', 0))} tokens, {count(record.get('words', 0))} words"
    return f"{count(record['step'])}: {shown}{seen}"


def _checkpoints(names: Sequence[str]) -> str:
    if not names:
        return "none"
    before = "... " if len(names) > SHOWN_CHECKPOINTS else ""
    return f"{len(names)}: {before}{', '.join(names[-SHOWN_CHECKPOINTS:])}"


def _digests(run: Any) -> str:
    if not isinstance(run, dict):
        return ""
    found = [(name, run.get(name)) for name in ("config", "data", "tokenizer")]
    return ", ".join(f"{name} {value.removeprefix('sha256:')[:12]}" for name, value in found if isinstance(value, str))


def _made_with(environment: Any) -> str:
    if not isinstance(environment, dict):
        return ""
    packages = environment.get("packages")
    versions = packages if isinstance(packages, dict) else {}
    parts = [f"python {str(environment.get('python', '')).split(' ')[0]}"]
    parts += [f"{name} {versions[name]}" for name in SHOWN_PACKAGES if name in versions]
    return ", ".join([*parts, str(_get(environment, "hardware", "cpu") or "")]).rstrip(", ")


def _git(git: Any) -> str:
    if not isinstance(git, dict) or git.get("commit") in (None, "unknown"):
        return ""
    return f"{git['commit'][:12]}{', with changes that are not committed' if git.get('dirty') else ''}"


def _get(facts: Mapping[str, Any], *names: str) -> Any:
    value: Any = facts
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _is_damage(value: Any) -> bool:
    return isinstance(value, str) and " is damaged: " in value
