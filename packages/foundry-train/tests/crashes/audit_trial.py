"""Train, resume, recover and verify a run full of planted pickles, with an audit hook that sees every unpickling.

python audit_trial.py            prints one line of JSON: what was unpickled, and whether a canary is alive
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import PLAIN, scratch_root, train, warm_up

from foundry_train.verify import verify_run

CANARY_NAMES = ("pytorch_model.bin", "training_state.pt", ".metadata", "optimizer.pkl", "modeling_evil.py")


def main() -> None:
    warm_up()
    base = Path(tempfile.mkdtemp(dir=scratch_root(), prefix="foundry-audit-"))
    canary = base / "fired"
    unpickled: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "pickle.find_class":
            unpickled.append(".".join(map(str, arguments)))

    try:
        sys.addaudithook(hook)
        train(base, PLAIN, stop_at=3)
        for folder in (base / "run/checkpoints").glob("step-*"):
            plant(folder, canary)
        (base / "run/checkpoints/step-00000003/model.safetensors").write_bytes(b"cos\nsystem\n.")
        train(base, PLAIN)
        report = verify_run(base / "run")
        named = [finding.where for finding in report.findings if finding.is_error]
        result = {"unpickled": unpickled, "fired": canary.exists(), "named": named}
    finally:
        shutil.rmtree(base, ignore_errors=True)
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    os._exit(0)


def plant(folder: Path, canary: Path) -> None:
    """Put files beside the checkpoint's own that would leave a trace if anything loaded or ran them."""
    pickle = f"cposix\nsystem\n(S'touch {canary}'\ntR.".encode()
    for name in CANARY_NAMES:
        (folder / name).write_bytes(f"open({str(canary)!r}, 'w')".encode() if name.endswith(".py") else pickle)


if __name__ == "__main__":
    main()
