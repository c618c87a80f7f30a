"""Prove that a run, an export, a single checkpoint or a token store is what it claims to be.

    verify_run(run)                    every hash, every digest, the chain of parents, no weights twice, none missing,
                                       config.json and metrics.jsonl as run.json and the manifests have them
    verify_run(run, replay=100)        ... and that training again from a checkpoint reaches the next one, bit for bit
    verify_run(run, against=other)     ... and where two runs part: the first step, checkpoint and tensor that differ
    verify_folder(folder)              one checkpoint, an exported model, a folder of exported revisions, prepared data

A finding is an error when something is wrong, and a note when something only cannot be told.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from foundry_config.errors import CheckpointError, DataError, ResumeMismatchError
from foundry_data.store import ChunkStore
from foundry_data.store_format import MANIFEST as STORE_MANIFEST
from foundry_model.safetensors_header import read_safetensors_metadata
from foundry_train.checkpoint_list import CheckpointInfo, describe, file_problems, list_checkpoints
from foundry_train.checkpoint_names import QUARANTINE
from foundry_train.findings import Finding, VerifyReport
from foundry_train.lineage import read_events
from foundry_train.manifest import MANIFEST_NAME, WEIGHT_FILES, Manifest
from foundry_train.run_difference import compare_runs_bitwise, step_records, tensors_of
from foundry_train.run_record import read_record, why_not_begun
from foundry_train.safetensors_reader import load_new
from foundry_train.safetensors_writer import weights_digest
from foundry_train.vanishing import removed
from foundry_train.verify_records import check_config, check_metrics

Replayer = Callable[[CheckpointInfo, int], str]
"""Trains from a full checkpoint to a step, apart from the run; returns the digest of the weights there."""

_UNWANTED = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".py", ".so", ".metadata", ".distcp"}  # can hold code


def verify_run(
    run: str | Path, *, replay: int = 0, replayer: Replayer | None = None, against: str | Path | None = None
) -> VerifyReport:
    """Verify a run directory.

    Args:
        run: The run directory.
        replay: Steps that may be repeated to check one checkpoint against another; 0 repeats none. The longest stretch
            between two checkpoints that it allows is chosen, the newest of equal ones.
        replayer: Repeats them (see `replay.py`).
        against: Another run directory to compare with.

    Raises:
        CheckpointError: `run` or `against` is not a run directory.
    """
    run = _run_directory(run)
    known = read_events(run)  # before the listing: a run that trains may save a milestone in between
    infos = list_checkpoints(run / "checkpoints")
    findings = [*_check_all(infos), *_check_chain(infos, read_events(run)), *_check_duplicates(infos, run)]
    findings += _check_run(run, infos, known)
    infos = [info for info in infos if info.path.is_dir()]  # the others were removed by a run that trains
    span = None
    if replay:
        span, outcome = _check_replay(infos, replay, replayer)
        findings += outcome
    if against is not None:
        findings += compare_runs_bitwise(run, _run_directory(against))
    return _report(infos, findings, span)


def verify_folder(folder: str | Path) -> VerifyReport:
    """Verify a checkpoint, an exported or downloaded model, a folder of such, a run, or prepared token stores.

    Raises:
        CheckpointError: Nothing in the folder can be verified, or a run that trains has removed it meanwhile.
    """
    folder = Path(folder)
    if (folder / "run.json").is_file():
        return verify_run(folder)
    if folder.name == "checkpoints" and (folder.parent / "run.json").is_file():
        return verify_run(folder.parent)
    if (folder / MANIFEST_NAME).is_file():
        info = _describe_export(folder)
        findings = list(_check_one(info))
        if not folder.is_dir():
            raise removed(folder)
        return _report([info], findings, None)
    exports = [path for path in sorted(folder.iterdir()) if (path / MANIFEST_NAME).is_file()] if folder.is_dir() else []
    if exports:
        infos = sorted((_describe_export(path) for path in exports), key=lambda info: info.step)
        findings = [*_check_all(infos), *_check_chain(infos, []), *_check_duplicates(infos, None)]
        return _report(infos, findings, None)
    stores = [path for path in (folder, *sorted(folder.glob("*"))) if (path / STORE_MANIFEST).is_file()]
    return _verify_stores(stores) if stores else _verify_lone_weights(folder)


def _check_all(infos: Sequence[CheckpointInfo]) -> Iterator[Finding]:
    for info in infos:
        yield from _check_one(info)


def _check_one(info: CheckpointInfo) -> Sequence[Finding]:
    """What is wrong with a checkpoint; that is nothing where retention has removed it, whole, meanwhile."""
    try:
        findings = list(_check_files(info))
        gone = bool(findings) and not info.path.is_dir()
    except FileNotFoundError:
        findings, gone = [], not info.path.is_dir()
        if not gone:
            raise
    if not gone:
        return findings
    what = "a milestone, which no run removes, was removed" if info.milestone else "was removed by the run"
    return [Finding(info.milestone, info.path.name, f"{what} while it was verified")]


def _check_files(info: CheckpointInfo) -> Iterator[Finding]:
    """Manifest, sizes, hashes, the digest of the weights, and files that do not belong there."""
    if info.manifest is None or info.problem is not None:
        yield Finding(True, info.path.name, str(info.problem))
        return
    problems = file_problems(info.path, info.manifest)
    for problem in problems:
        yield Finding(True, info.path.name, problem)
    yield from _check_weights(info, info.manifest, proven=not problems)
    yield from _check_extra_files(info.path, info.manifest)


def _check_weights(info: CheckpointInfo, manifest: Manifest, *, proven: bool) -> Iterator[Finding]:
    try:
        digest = weights_digest(tensors_of(info))
    except (CheckpointError, OSError) as error:
        if proven:
            yield Finding(True, info.path.name, str(error))
        return
    if digest != manifest.weights.digest:
        yield Finding(True, info.path.name, f"the weights have the digest {digest}, expected {manifest.weights.digest}")
    elif not proven:
        yield Finding(False, info.path.name, "the weights themselves are exactly those that were saved")


def _check_extra_files(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name in manifest.files or name == MANIFEST_NAME:
            continue
        suspicious = path.suffix in _UNWANTED or path.name in _UNWANTED
        yield Finding(suspicious, f"{folder.name}/{name}", "is not listed in the manifest")


def _check_chain(infos: Sequence[CheckpointInfo], events: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Every parent is an earlier checkpoint that exists, or one that the lineage says existed."""
    manifests = [info.manifest for info in infos if info.manifest is not None]
    known = {digest: m.step for m in manifests for digest in [m.self_digest, *m.supersedes]}
    recorded = {str(event.get("manifest")): int(event["step"]) for event in events if event.get("event") == "save"}
    for manifest in manifests:
        where, parent = f"step-{manifest.step:08d}", manifest.parent
        if parent is None or parent.run_id is not None:
            continue
        step = known.get(parent.self_digest, recorded.get(parent.self_digest))
        if parent.step >= manifest.step:
            yield Finding(True, where, f"its parent is step {parent.step}, which is not before it")
        elif step is None and any(m.step == parent.step for m in manifests):
            yield Finding(True, where, f"its parent is another step {parent.step} than the one that is here")
        elif step is None:
            yield Finding(False, where, f"its parent, step {parent.step}, is neither here nor in the lineage")
        elif step != parent.step:
            yield Finding(True, where, f"it names step {parent.step} as parent, but that digest is of step {step}")


def _check_duplicates(infos: Sequence[CheckpointInfo], run: Path | None) -> Iterator[Finding]:
    """No two steps hold the same weights, unless the metrics say that no update between them changed anything."""
    first: dict[str, int] = {}
    for info in infos:
        if info.manifest is None:
            continue
        digest = info.manifest.weights.digest
        if digest not in first:
            first[digest] = info.step
        elif run is None or not _idle_between(run, first[digest], info.step):
            yield Finding(True, info.path.name, f"holds the same weights as step {first[digest]}")


def _idle_between(run: Path, start: int, end: int) -> bool:
    steps = [record for record in step_records(run) if start < record["step"] <= end]
    return len(steps) == end - start and all(r.get("skipped") or r.get("lr") == 0 for r in steps)


def _check_run(run: Path, infos: Sequence[CheckpointInfo], known: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """All checkpoints are of this run, every milestone that was saved is still there, config and metrics fit them.

    Args:
        run: The run directory.
        infos: Its checkpoints.
        known: Events of the lineage, read before the checkpoints were listed.
    """
    try:
        record = read_record(run / "run.json")
    except ResumeMismatchError:
        yield Finding(True, "run.json", "is missing or damaged")
        return
    if infos or any(event.get("event") == "start" for event in known):
        yield from check_config(run, record)
        yield from check_metrics(run, infos)
    for info in infos:
        if info.manifest is not None and info.manifest.run_id != record.run_id:
            yield Finding(True, info.path.name, f"belongs to the run {info.manifest.run_id}, this is {record.run_id}")
    here = {info.step for info in infos}
    saved = {int(e["step"]) for e in known if e.get("event") == "save" and e.get("milestone")}
    for step in sorted(saved - here):
        yield Finding(True, f"step-{step:08d}", "was saved as a milestone and is gone")
    shelf = run / "checkpoints" / QUARANTINE
    for path in sorted(shelf.iterdir()) if shelf.is_dir() else []:
        yield Finding(False, f"{QUARANTINE}/{path.name}", "was put aside")


def _check_replay(
    infos: Sequence[CheckpointInfo], limit: int, replayer: Replayer | None
) -> tuple[tuple[int, int] | None, list[Finding]]:
    """Repeat the longest stretch of at most `limit` steps from a full checkpoint on; of equal ones the newest."""
    if replayer is None:
        raise ValueError("a replay needs a replayer")
    sound = [info for info in infos if info.problem is None and info.manifest is not None]
    pairs = [(a, b) for a, b in itertools.combinations(sound, 2) if a.kind == "full" and b.step - a.step <= limit]
    if not pairs:
        message = f"no checkpoint lies within {limit} steps after a full one; nothing was repeated"
        return None, [Finding(False, "replay", message)]
    start, end = max(pairs, key=lambda pair: (pair[1].step - pair[0].step, pair[1].step))
    digest = replayer(start, end.step)
    span = (start.step, end.step)
    if end.manifest is not None and digest == end.manifest.weights.digest:
        return span, []
    message = f"training again from step {start.step} reaches other weights than the run did: {digest}"
    return span, [Finding(True, end.path.name, message)]


def _describe_export(folder: Path) -> CheckpointInfo:
    """Describe a folder whose name need not say its step."""
    info = describe(folder, 0)
    if info.manifest is None:
        return info
    return describe(folder, info.manifest.step)


def _verify_stores(folders: Sequence[Path]) -> VerifyReport:
    """Compare every file of token stores with the hash in their manifests."""
    findings: list[Finding] = []
    files: list[int] = []
    for folder in folders:
        try:
            store = ChunkStore.open(folder)
            files += [entry.bytes for entry in store.manifest.files.values()]
            store.verify()
        except DataError as error:
            findings.append(Finding(True, folder.name, str(error)))
    return VerifyReport(0, len(files), sum(files), None, tuple(findings))


def _verify_lone_weights(folder: Path) -> VerifyReport:
    """Weights without a manifest: compare them with the digest that our files carry in their metadata."""
    files = [path for path in sorted(folder.glob("*.safetensors")) if WEIGHT_FILES.fullmatch(path.name)]
    if not files:
        raise CheckpointError(f"{folder}: no run, no checkpoint, no model, no token store; nothing to verify")
    tensors = {key: tensor for path in files for key, tensor in load_new(path).tensors.items()}
    claimed = {read_safetensors_metadata(path).get("foundry.weights") for path in files}
    digest = weights_digest(tensors)
    if claimed == {digest}:
        finding = Finding(False, folder.name, f"the weights are those that the file says: {digest}")
    elif claimed == {None}:
        finding = Finding(False, folder.name, f"without a manifest there is nothing to compare with; digest {digest}")
    else:
        finding = Finding(
            True, folder.name, f"the weights have the digest {digest}, the files say {sorted(map(str, claimed))}"
        )
    return VerifyReport(1, len(files), sum(path.stat().st_size for path in files), None, (finding,))


def _report(infos: Sequence[CheckpointInfo], findings: list[Finding], span: tuple[int, int] | None) -> VerifyReport:
    files = sum(len(info.manifest.files) for info in infos if info.manifest)
    return VerifyReport(len(infos), files, sum(info.bytes for info in infos), span, tuple(findings))


def _run_directory(path: str | Path) -> Path:
    path = Path(path)
    if not (path / "run.json").is_file() and not (path / "checkpoints").is_dir():
        reason = why_not_begun(path) or "is not a run directory: it has neither run.json nor checkpoints"
        raise CheckpointError(f"{path} {reason}")
    return path
