"""Upload exported checkpoints to the Hugging Face hub, one branch each, through `huggingface_hub`.

Whatever an upload needs is prepared and checked on disk before; here is only the conversation with the hub. The token
comes from where `huggingface_hub` finds it (login or HF_TOKEN) and is never shown.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from foundry_config.errors import StorageError


class HubApi(Protocol):
    """The part of `huggingface_hub.HfApi` that an upload uses."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any: ...

    def create_branch(self, repo_id: str, *, branch: str, exist_ok: bool) -> Any: ...

    def upload_folder(self, *, repo_id: str, folder_path: str, revision: str, commit_message: str) -> Any: ...


def push_folders(
    folders: Mapping[str, Path],
    repository: str,
    *,
    api: HubApi | None = None,
    private: bool = True,
    progress: Callable[[str], None] | None = None,
) -> list[str]:
    """Upload each folder as the branch it is named by, in order; `main` is a name like any other.

    Args:
        folders: Branch -> finished model folder.
        repository: "owner/name"; created if it does not exist.
        api: What talks to the hub; `huggingface_hub.HfApi()` if not given.
        private: Whether a repository that is created is private.
        progress: Told each branch before its upload.

    Returns:
        The branches that were uploaded.

    Raises:
        StorageError: The hub refused or could not be reached; names the branch and those that are already there.
    """
    client = api or _hub()
    done: list[str] = []
    for branch, folder in folders.items():
        if progress is not None:
            progress(branch)
        try:
            if not done:
                client.create_repo(repository, private=private, exist_ok=True)
            if branch != "main":
                client.create_branch(repository, branch=branch, exist_ok=True)
            client.upload_folder(
                repo_id=repository, folder_path=str(folder), revision=branch, commit_message=f"Add {branch}"
            )
        except Exception as error:  # HTTP, network and login errors of several libraries
            there = f"; already uploaded: {', '.join(done)}" if done else ""
            raise StorageError(
                f"upload of {branch!r} to {repository!r} failed: {error}{there}. Run it again"
            ) from error
        done.append(branch)
    return done


def _hub() -> HubApi:
    from huggingface_hub import HfApi  # a dependency of transformers; takes a second to import

    return HfApi()
