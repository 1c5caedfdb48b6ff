"""Publishing to the hub: large files first, then one commit, then the tag on that commit.

    look      where is the head, which tags are there, was the commit made before?
    upload    large files by LFS, whose objects nobody sees yet
    commit    one, which names its parent: it is refused where the head has moved
    tag       the version, on exactly that commit; then `latest`

Each call goes through all of it and does what is missing, so it may be killed between any two
steps, and an answer that was lost is not missed: the next look at the head shows the commit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from pipeline.errors import UserError
from pipeline.releases.publication import (
    Publication,
    missing_version,
    other_content,
    refuse_older,
    stale_paths,
)
from pipeline.releases.transports import Erased, Outcome, Source
from pipeline.releases.transports.hub_erasure import Erasure
from pipeline.releases.transports.hub_repository import KIND, MAIN, HubRepository, addition
from pipeline.remote.waiting import Patience, TryLater
from pipeline.store.releases import FILE, LATEST

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

T = TypeVar("T")
ROLLBACK: Final = "Roll back to "
_TITLE: Final = re.compile(rf"(?:{ROLLBACK})?\S+ \d+\.\d+", re.ASCII)
"""The titles of our commits."""


@dataclass
class HubTransport:
    """A repository of data sets on the hub.

    Args:
        repo: `ORG/NAME`, or `datasets/ORG/NAME` as the hub's own addresses have it.
        patience: How long to wait for the hub.
    """

    repo: str
    patience: Patience

    def __post_init__(self) -> None:
        self.repo = self.repo.removeprefix("datasets/").rstrip("/")
        if len(self.repo.split("/")) != 2 or not all(self.repo.split("/")):
            raise UserError(f"an address on the hub must be hf://ORG/NAME, got hf://{self.repo}")
        self.patience.address = f"hf://{self.repo}"
        self.repository = HubRepository(self.repo, self.patience)

    # Publishing

    def check(self, publication: Publication, move_latest: bool) -> None:
        """Nothing: the hub refuses by itself, before anything is sent.

        Args:
            publication: Not used.
            move_latest: Not used.
        """

    def publish(self, publication: Publication, move_latest: bool) -> Outcome:
        """Bring the repository into the state of the publication; again, it changes nothing.

        Args:
            publication: What is to be published.
            move_latest: Whether the tag `latest` is to name this version.

        Raises:
            UserError: The hub refuses, or does not answer in time.
        """
        self.retry(self._ensure_repository)
        commit, is_new = self.retry(lambda: self._ensure_commit(publication))
        is_new |= self.retry(lambda: self._ensure_tag(publication, commit))
        moved = move_latest and self.retry(lambda: self._ensure_latest(commit))
        address = f"hf://{self.repo}@{publication.version} (commit {commit[:12]})"
        return Outcome(address, is_new or moved, publication.version if moved else None)

    def _ensure_repository(self) -> None:
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            self.repository.head()
        except RepositoryNotFoundError:
            self.repository.api.create_repo(self.repo, repo_type=KIND)

    def _ensure_commit(self, publication: Publication) -> tuple[str, bool]:
        """The commit that holds the release, and whether it was made now."""
        versions = self.repository.versions()
        if (tagged := versions.get(publication.version)) is not None:
            if not self.repository.holds(tagged, publication):
                raise other_content(publication.version, f"hf://{self.repo}")
            return tagged, False
        head = self.repository.head()
        if (earlier := self._earlier_commit(head, publication)) is not None:
            return earlier, False
        refuse_older(publication.version, list(versions), f"hf://{self.repo}")
        commit = self._commit(head, publication)
        # A tag never moves: an answer that names another commit must not decide where it goes.
        if not self.repository.holds(commit, publication):
            raise TryLater(f"the commit that the hub names ({commit}) has other files")
        return commit, True

    def _earlier_commit(self, head: str | None, publication: Publication) -> str | None:
        """The commit of a call that ended before its tag: the head, or one before it."""
        if head is None:
            return None
        history = self.repository.api.list_repo_commits(self.repo, repo_type=KIND, revision=head)
        candidates = [commit.commit_id for commit in history if commit.title == publication.title]
        return next((oid for oid in candidates if self.repository.holds(oid, publication)), None)

    def _commit(self, head: str | None, publication: Publication) -> str:
        from huggingface_hub import CommitOperationDelete

        present = self.repository.tree(head) if head else {}
        stale: list[str] = []
        if head:
            stale = stale_paths(self.repository.content(FILE, head), present, publication)
        additions = [addition(publication, path) for path in publication.files]
        self.repository.api.preupload_lfs_files(
            self.repo, additions, repo_type=KIND, revision=MAIN, free_memory=False
        )
        self._refuse_ignored(additions)
        info = self.repository.api.create_commit(
            self.repo,
            [*additions, *(CommitOperationDelete(path, is_folder=False) for path in stale)],
            commit_message=publication.title,
            commit_description=publication.message,
            repo_type=KIND,
            revision=MAIN,
            parent_commit=head,
        )
        return str(info.oid)

    def _refuse_ignored(self, additions: Sequence[CommitOperationAdd]) -> None:
        """Refuse a commit that would be without some of its files.

        Raises:
            UserError: The hub ignores one of them.
        """
        ignored = [addition.path_in_repo for addition in additions if addition._should_ignore]
        if ignored:
            raise UserError(
                f"the hub would leave {', '.join(ignored)} out of the commit",
                where=f"hf://{self.repo}",
                why="a line of the repository's .gitignore matches",
                hint="remove that line from .gitignore there",
            )

    def _ensure_tag(self, publication: Publication, commit: str) -> bool:
        """Tag the commit with its version; whether that was missing."""
        tagged = self.repository.tags().get(publication.version)
        if tagged is None:
            self.repository.api.create_tag(
                self.repo, tag=publication.version, revision=commit, repo_type=KIND
            )
            return True
        if tagged != commit and not self.repository.holds(tagged, publication):
            raise other_content(publication.version, f"hf://{self.repo}")
        return False

    def _ensure_latest(self, commit: str) -> bool:
        """Let `latest` name the commit, unless a newer one is ours; whether it was moved."""
        history = self.repository.api.list_repo_commits(self.repo, repo_type=KIND, revision=MAIN)
        ours = [entry.commit_id for entry in history if _TITLE.fullmatch(entry.title)]
        current = self.repository.tags().get(LATEST)
        if current == commit or (ours and ours[0] != commit):
            return False
        if current is not None:
            self.repository.api.delete_tag(self.repo, tag=LATEST, repo_type=KIND)
        self.repository.api.create_tag(self.repo, tag=LATEST, revision=commit, repo_type=KIND)
        return True

    # Reading back

    def has_version(self, version: str) -> bool:
        """Whether a version is there; nothing is fetched.

        Args:
            version: The version.

        Raises:
            UserError: The hub refuses, or does not answer in time.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        def tagged() -> bool:
            try:
                return version in self.repository.tags()
            except RepositoryNotFoundError:
                return False

        return self.retry(tagged)

    def download(self, publication: Publication, folder: Path) -> Source:
        """Fetch the tag anew, into the cache of this call.

        Args:
            publication: What was published.
            folder: Where the cache is.

        Raises:
            UserError: The hub does not answer in time.
        """

        def download() -> str:
            return self.repository.api.snapshot_download(
                self.repo,
                repo_type=KIND,
                revision=publication.version,
                cache_dir=folder,
                allow_patterns=sorted(publication.files),
                max_workers=4,
            )

        return Source(Path(self.retry(download)), self.repo, publication.version)

    def retry(self, step: Callable[[], T]) -> T:
        """The result of a step that reads from the hub, tried until it answers.

        Args:
            step: Something that may be done again.

        Raises:
            UserError: The hub refuses, or does not answer in time.
        """
        return self.repository.retry(step)

    # Going back

    def rollback(self, name: str, version: str) -> Outcome:
        """Make a commit with the tree of an earlier version, by copies within the repository.

        Args:
            name: The release's name.
            version: The earlier version.

        Raises:
            UserError: It is not published, or the hub refuses or does not answer in time.
        """
        commit, is_new = self.retry(lambda: self._ensure_rolled_back(name, version))
        moved = self.retry(lambda: self._ensure_latest(commit))
        address = f"hf://{self.repo} (commit {commit[:12]})"
        return Outcome(address, is_new or moved, version)

    def _ensure_rolled_back(self, name: str, version: str) -> tuple[str, bool]:
        from huggingface_hub import CommitOperationCopy, CommitOperationDelete

        versions = self.repository.versions()
        if version not in versions:
            raise missing_version(version, list(versions), f"hf://{self.repo}")
        head = self.repository.head()
        assert head is not None  # a tag names a commit
        target, present = self.repository.tree(versions[version]), self.repository.tree(head)
        copies = [
            CommitOperationCopy(path, path, src_revision=versions[version])
            for path, file in target.items()
            if path not in present or present[path].blob_id != file.blob_id
        ]
        new = [CommitOperationDelete(path, is_folder=False) for path in present.keys() - target]
        if not copies and not new:
            return head, False
        info = self.repository.api.create_commit(
            self.repo,
            [*copies, *new],
            commit_message=f"{ROLLBACK}{name} {version}",
            repo_type=KIND,
            revision=MAIN,
            parent_commit=head,
        )
        after = self.repository.tree(info.oid)
        if {path: file.blob_id for path, file in after.items()} != {
            path: file.blob_id for path, file in target.items()
        }:
            raise TryLater("the tree after the commit is not that of the version")
        return str(info.oid), True

    # Erasing

    def erase(self, versions: list[str]) -> Erased:
        """Remove versions for good: their large files, their tags, and the history of both.

        Args:
            versions: The versions; the current one cannot be among them.

        Raises:
            UserError: The current version is one of them, or the hub refuses.
        """
        return Erasure(self.repository, versions).run()
