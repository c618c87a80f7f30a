"""Models that leave their run: as a folder, as an offline Hugging Face cache, or on the hub."""

from foundry_train.export.check import check_export, export_checked
from foundry_train.export.folder import export_checkpoint
from foundry_train.export.revisions import export_revisions, push_revisions, revision_names

__all__ = [
    "check_export",
    "export_checked",
    "export_checkpoint",
    "export_revisions",
    "push_revisions",
    "revision_names",
]
