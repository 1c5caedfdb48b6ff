"""What a repository on the hub holds: its head, its tags, its files.

What a commit holds never changes, so it is asked for once.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from pipeline.releases.publication import Publication
from pipeline.releases.transports.hub_client import translated
from pipeline.remote.waiting import Patience
from pipeline.store.releases import FILE
from schemas.manifest import FileEntry

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.hf_api import RepoFile

T = TypeVar("T")
MAIN: Final = "main"
KIND: Final = "dataset"
_VERSION: Final = re.compile(r"(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)", re.ASCII)


@dataclass
class HubRepository:
    """A repository of data sets, read through the hub's client.

    Args:
        name: `ORG/NAME`.
        patience: How long to wait for the hub.
    """

    name: str
    patience: Patience
    _trees: dict[str, dict[str, RepoFile]] = field(default_factory=dict, repr=False)

    @cached_property
    def api(self) -> HfApi:
        """The client: its token comes from the environment or from the hub's login."""
        from huggingface_hub import HfApi

        return HfApi(library_name="gristmill")

    def retry(self, step: Callable[[], T]) -> T:
        """The result of a step, which is tried until the hub answers or patience ends.

        Args:
            step: Something that may be done again.

        Raises:
            UserError: The hub refuses, or does not answer in time.
        """

        def tried() -> T:
            with translated():
                return step()

        return self.patience.retry(tried)

    def head(self) -> str | None:
        """The newest commit of the main branch; None for a repository without any."""
        return self.api.repo_info(self.name, repo_type=KIND).sha

    def tags(self) -> dict[str, str]:
        """The commit of each tag."""
        refs = self.api.list_repo_refs(self.name, repo_type=KIND)
        return {ref.name: ref.target_commit for ref in refs.tags}

    def versions(self) -> dict[str, str]:
        """The commit of each tag that is a version."""
        return {name: oid for name, oid in self.tags().items() if _VERSION.fullmatch(name)}

    def tree(self, commit: str) -> dict[str, RepoFile]:
        """The files of a commit by path."""
        from huggingface_hub.hf_api import RepoFile

        if commit not in self._trees:
            entries = self.api.list_repo_tree(
                self.name, repo_type=KIND, revision=commit, recursive=True
            )
            self._trees[commit] = {e.path: e for e in entries if isinstance(e, RepoFile)}
        return self._trees[commit]

    def content(self, path: str, commit: str) -> bytes | None:
        """A small file of a commit; None where it has none.

        Args:
            path: Its path.
            commit: The commit.
        """
        if path not in self.tree(commit):
            return None
        with tempfile.TemporaryDirectory() as folder:
            file = self.api.hf_hub_download(
                self.name, path, repo_type=KIND, revision=commit, local_dir=folder
            )
            return Path(file).read_bytes()

    def version_of(self, commit: str) -> str | None:
        """The version that a commit holds, as its `release.json` says."""
        try:
            return str(json.loads(self.content(FILE, commit) or b"")["version"])
        except (ValueError, TypeError, KeyError):
            return None

    def holds(self, commit: str, publication: Publication) -> bool:
        """Whether a commit has the data of a release.

        Args:
            commit: The commit.
            publication: The release.
        """
        return all(
            _is_same(publication.files[path], entry, self.tree(commit).get(path))
            for path, entry in publication.data.items()
        )


def _is_same(local: Path, entry: FileEntry, remote: RepoFile | None) -> bool:
    """Whether the hub's file is the local one: by sha256 where it is large, else by git's hash."""
    if remote is None or remote.size != entry["bytes"]:
        return False
    if remote.lfs is not None:
        return remote.lfs.sha256 == entry["sha256"]
    blob = hashlib.sha1(b"blob %d\0" % entry["bytes"] + local.read_bytes())
    return remote.blob_id == blob.hexdigest()


def addition(publication: Publication, path: str) -> CommitOperationAdd:
    """The operation that adds a file, whose digest is not computed again.

    Args:
        publication: What is published.
        path: The file's path.
    """
    from huggingface_hub import CommitOperationAdd

    operation = CommitOperationAdd(path, publication.files[path])
    operation.upload_info.sha256 = bytes.fromhex(publication.entries[path]["sha256"])
    return operation
