"""Prove that an exported folder is the model that was trained: reload it and compare logits and token ids.

The export is opened by transformers, as its user will; the original by this project's own strict loader. Equal bytes in
equal code give equal bits, so the comparison is exact.
"""

from pathlib import Path

import torch

from foundry_config.errors import CheckpointError
from foundry_data import fs, load_tokenizer
from foundry_model import load_pretrained
from foundry_train.export.folder import export_checkpoint
from foundry_train.manifest import Manifest

PROBES = (
    "The quick brown fox jumps over the lazy dog.",
    "  Two  spaces, a tab\tand a line\nbreak.",
    "naïve café, Ελληνικά, 中文, 🙂👩‍👩‍👧, \u00a0 and \u200b",
    "",
    "x = [i ** 2 for i in range(10)]  # code",
)


def export_checked(checkpoint: Path, target: Path) -> Manifest:
    """Export a checkpoint and compare the result with it; an export that differs is removed again.

    Raises:
        CheckpointError: The checkpoint is damaged, or logits or token ids of the export differ.
        ConfigError: `target` exists and is not empty.
    """
    exported = export_checkpoint(checkpoint, target)
    try:
        check_export(checkpoint, target)
    except BaseException:
        fs.remove_tree(target)
        raise
    return exported


def check_export(checkpoint: Path, exported: Path) -> None:
    """Compare the exported folder with the checkpoint it was made from.

    Raises:
        CheckpointError: Logits or token ids differ, or transformers cannot open the export.
    """
    ids = check_tokenizer(exported)
    check_logits(checkpoint, exported, ids)


def check_tokenizer(exported: Path) -> list[list[int]]:
    """Return the ids of the probes; they must be the same from our tokenizer and from transformers.

    Raises:
        CheckpointError: They are not.
    """
    from transformers import AutoTokenizer  # a second to import, and only an export needs it

    ours, theirs = load_tokenizer(exported), AutoTokenizer.from_pretrained(exported, local_files_only=True)
    found: list[list[int]] = []
    for probe in PROBES:
        expected = list(ours.encode(probe))
        got = theirs.encode(probe, add_special_tokens=False, verbose=False)
        if expected != got:
            raise CheckpointError(f"{exported}: transformers tokenizes {probe!r} as {got}, the run did as {expected}")
        found.append(expected)
    return found


def check_logits(checkpoint: Path, exported: Path, ids: list[list[int]]) -> None:
    """Compare the logits of both folders on `ids`, bit for bit.

    Raises:
        CheckpointError: They differ.
    """
    from transformers import AutoModelForCausalLM  # nine seconds to import
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    ours = load_pretrained(checkpoint).eval()
    theirs = AutoModelForCausalLM.from_pretrained(
        exported, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=ours.dtype
    ).eval()
    longest = getattr(ours.config, "max_position_embeddings", None)  # recurrent models have no such limit
    for sequence in filter(None, ids):
        batch = torch.tensor([sequence[:longest]])  # [1, T]
        with torch.inference_mode():
            expected, got = ours(input_ids=batch).logits, theirs(input_ids=batch).logits
        if not torch.equal(expected, got):
            worst = (expected - got).abs().max().item()
            raise CheckpointError(f"{exported}: its logits differ from those of {checkpoint} by up to {worst:.3g}")
