"""Check what a run writes beside its checkpoints: the config that run.json has the digest of, and metrics.jsonl.

    config.json    its identity fields have the digest that run.json was made with; the others may change between starts
    metrics.jsonl  whole lines are records; at the step of a checkpoint it has the loss that the manifest has

Floats are written so that they read back exactly, so the losses are equal or one of them was changed. A manifest
without a loss (step 0, an update that was left out) has nothing to compare with.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from foundry_config import config_digest, config_from_dict
from foundry_config.errors import ConfigError
from foundry_train.checkpoint_list import CheckpointInfo
from foundry_train.findings import Finding
from foundry_train.manifest import Manifest
from foundry_train.metrics_log import read_numbered
from foundry_train.run_record import RunRecord

CONFIG, METRICS = "config.json", "metrics.jsonl"


def check_config(run: Path, record: RunRecord) -> Iterator[Finding]:
    """Compare config.json with the digest in run.json, for a run that has begun."""
    path = run / CONFIG
    try:
        digest = config_digest(config_from_dict(msgspec.json.decode(path.read_bytes(), type=dict)))
    except FileNotFoundError:
        yield Finding(True, CONFIG, f"is missing; run.json was made with one of the digest {record.config}")
    except (OSError, msgspec.DecodeError, ConfigError) as error:
        yield Finding(True, CONFIG, f"cannot be read back: {error}")
    else:
        if digest != record.config:
            what = f"its identity fields have the digest {digest}, expected {record.config}"
            yield Finding(True, CONFIG, f"is not the one that run.json was made with: {what}")


def check_metrics(run: Path, infos: Sequence[CheckpointInfo]) -> Iterator[Finding]:
    """Compare metrics.jsonl with the manifests of the run; call it after they were listed, since a run may train."""
    manifests = [info.manifest for info in infos if info.manifest is not None]
    try:
        records = list(read_numbered(run / METRICS))
    except FileNotFoundError:
        if any(manifest.step > 0 for manifest in manifests):
            yield Finding(True, METRICS, "is missing")
        return
    except OSError as error:
        yield Finding(True, METRICS, f"cannot be read: {error.strerror}")
        return
    broken = [number for number, record in records if record is None]
    if broken:
        more = f", and {len(broken) - 1:,} more" if len(broken) > 1 else ""
        yield Finding(True, f"{METRICS}:{broken[0]}", f"is no record{more}")
    steps = {
        record["step"]: record
        for _, record in records
        if record is not None and record.get("kind") == "step" and isinstance(record.get("step"), int)
    }
    for manifest in manifests:
        if manifest.loss is not None:
            yield from _check_loss(manifest, steps)


def _check_loss(manifest: Manifest, steps: Mapping[int, Mapping[str, Any]]) -> Iterator[Finding]:
    where, record = f"step-{manifest.step:08d}", steps.get(manifest.step)
    if record is None:
        # a run that goes on from before a milestone has cut its metrics there, and makes the milestone once more
        repeats = manifest.kind == "weights" and manifest.step > max(steps, default=0)
        yield Finding(not repeats, where, f"{METRICS} has no record of its step")
    elif record.get("loss") != manifest.loss:
        attempt = record.get("attempt")
        repeated = isinstance(attempt, int) and attempt > manifest.attempt  # with other bits, if that was allowed
        later = f", in the later attempt {attempt}" if repeated else ""
        found = f"its loss is {manifest.loss!r}, {METRICS} says {record.get('loss')!r}{later}"
        yield Finding(not repeated, where, found)
