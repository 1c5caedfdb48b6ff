"""Publishing to a git repository: one commit on `main`, its tag and `latest`, in one push.

The push is atomic and names the refs that it replaces, so a place never has one without the
other, and a commit of somebody else is never lost. Shards go by Git LFS where `git lfs` is
installed; without it they are plain files, up to a size that a repository can bear.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from pipeline.errors import UserError
from pipeline.releases.publication import (
    Publication,
    missing_version,
    other_content,
    refuse_older,
)
from pipeline.releases.transports import Erased, Outcome, Source, pointer
from pipeline.releases.transports.git_commands import has_lfs
from pipeline.releases.transports.git_repository import MAIN, GitRepository
from pipeline.remote.waiting import Patience
from pipeline.store.releases import LATEST, version_key

T = TypeVar("T")
PLAIN_LIMIT: Final = 50 * 2**20
"""Bytes of a file that go into a repository without LFS: hosts warn from there on."""

_VERSION: Final = re.compile(r"refs/tags/(\d+\.\d+)", re.ASCII)


@dataclass
class GitTransport:
    """A git repository that can be pushed to.

    Args:
        url: What `git clone` takes.
        patience: How long to wait for the server.
    """

    url: str
    patience: Patience

    def __post_init__(self) -> None:
        self.repository = GitRepository(self.url, self.patience)

    def retry(self, step: Callable[[], T]) -> T:
        """The result of a step, tried until the server answers.

        Args:
            step: Something that may be done again.

        Raises:
            UserError: The server refuses, or does not answer in time.
        """
        return self.patience.retry(step)

    # Publishing

    def check(self, publication: Publication, move_latest: bool) -> None:  # noqa: ARG002
        """Refuse files that are too large without LFS.

        Args:
            publication: What is to be published.
            move_latest: Not used.

        Raises:
            UserError: One is.
        """
        large = [p for p, entry in publication.entries.items() if entry["bytes"] > PLAIN_LIMIT]
        if large and not has_lfs():
            raise UserError(
                f"a file without Git LFS must have at most {PLAIN_LIMIT >> 20} MiB, got {large[0]} "
                f"of {publication.entries[large[0]]['bytes'] / 2**20:,.0f} MiB",
                where=self.repository.address,
                hint="install git-lfs (apt install git-lfs), or export smaller shards "
                "(rows_per_shard)",
            )

    def publish(self, publication: Publication, move_latest: bool) -> Outcome:
        """Push one commit with the release, its tag and `latest`.

        Args:
            publication: What is to be published.
            move_latest: Whether the tag `latest` is to name it.

        Raises:
            UserError: The version is there with other content, or the server refuses or does
                not answer in time.
        """
        commit, is_new, moved = self.retry(lambda: self._ensure(publication, move_latest))
        address = f"{self.repository.address} {publication.version} (commit {commit[:12]})"
        return Outcome(address, is_new, publication.version if moved else None)

    def _ensure(self, publication: Publication, move_latest: bool) -> tuple[str, bool, bool]:
        tag, latest = f"refs/tags/{publication.version}", f"refs/tags/{LATEST}"
        with self.repository.work() as (folder, refs):
            if tag in refs:
                self.repository.fetch(folder, tag)
                if not self.repository.holds(folder, f"refs/fetched/{tag}", publication):
                    raise other_content(publication.version, self.repository.address)
                commit = refs[tag]
                moved = move_latest and refs.get(MAIN) == commit != refs.get(latest)
                if moved:
                    self.repository.push(folder, {latest: commit}, refs)
                return commit, moved, moved
            versions = [match[1] for ref in refs if (match := _VERSION.fullmatch(ref))]
            refuse_older(publication.version, versions, self.repository.address)
            commit = self.repository.commit(folder, refs, publication)
            if has_lfs():
                self.repository.git("update-ref", MAIN, commit, folder=folder)
                self.repository.git("lfs", "push", "origin", "main", folder=folder)
            moves = {MAIN: commit, tag: commit} | ({latest: commit} if move_latest else {})
            self.repository.push(folder, moves, refs)
            return commit, True, move_latest

    def has_version(self, version: str) -> bool:
        """Whether a version is there; nothing is fetched.

        Args:
            version: The version.

        Raises:
            UserError: The server refuses, or does not answer in time.
        """

        def listed() -> bool:
            with self.repository.work() as (_, refs):
                return f"refs/tags/{version}" in refs

        return self.retry(listed)

    def download(self, publication: Publication, folder: Path) -> Source:
        """Clone the tag.

        Args:
            publication: What was published.
            folder: An empty folder.

        Raises:
            UserError: The server refuses, or does not answer in time.
        """
        target = folder / "clone"

        def clone() -> None:
            shutil.rmtree(target, ignore_errors=True)
            words = ("clone", "-q", "--depth", "1", "--branch", publication.version)
            env = {"GIT_LFS_SKIP_SMUDGE": "0"}
            self.repository.git(*words, self.url, str(target), folder=folder, env=env)

        self.retry(clone)
        shutil.rmtree(target / ".git")
        return Source(target, str(target))

    # Going back

    def rollback(self, name: str, version: str) -> Outcome:
        """Push a commit with the tree of an earlier version, and move `latest` to it.

        Args:
            name: The release's name.
            version: The earlier version.

        Raises:
            UserError: It is not published, or the server refuses or does not answer in time.
        """
        commit, is_new = self.retry(lambda: self._roll_back(name, version))
        return Outcome(f"{self.repository.address} (commit {commit[:12]})", is_new, version)

    def _roll_back(self, name: str, version: str) -> tuple[str, bool]:
        tag, latest = f"refs/tags/{version}", f"refs/tags/{LATEST}"
        with self.repository.work() as (folder, refs):
            if tag not in refs:
                known = [match[1] for ref in refs if (match := _VERSION.fullmatch(ref))]
                raise missing_version(version, known, self.repository.address)
            self.repository.fetch(folder, tag, MAIN)
            trees = [
                self.repository.git("rev-parse", f"{refs[ref]}^{{tree}}", folder=folder).strip()
                for ref in (tag, MAIN)
            ]
            if trees[0] == trees[1]:
                commit = refs[MAIN]
                if refs.get(latest) == commit:
                    return commit, False
                self.repository.push(folder, {latest: commit}, refs)
                return commit, True
            title = f"Roll back to {name} {version}"
            commit = self.repository.commit_tree(folder, trees[0], "-p", refs[MAIN], "-m", title)
            self.repository.push(folder, {MAIN: commit, latest: commit}, refs)
            return commit, True

    # Erasing

    def erase(self, versions: list[str]) -> Erased:
        """Leave the current version on a history of one commit, and remove the others' tags.

        Versions between an erased one and the current one go too: their history has it.

        Args:
            versions: The versions; the current one cannot be among them.

        Raises:
            UserError: The current version is one of them, or the server refuses.
        """
        return self.retry(lambda: self._erase(versions))

    def _erase(self, versions: list[str]) -> Erased:
        repository = self.repository
        with repository.work() as (folder, refs):
            known = {match[1]: ref for ref in refs if (match := _VERSION.fullmatch(ref))}
            present = sorted(set(versions) & known.keys(), key=version_key)
            if not present:
                return Erased((), 0, 0)
            repository.fetch(folder, MAIN, *known.values())
            head = repository.tree(folder, refs[MAIN])
            current = repository.version_of(folder, head)
            if current in versions:
                raise pointer.current_version(str(current), repository.address)
            first = version_key(present[0])
            with_them = [v for v in known if version_key(v) > first and v != current]
            tree = repository.git("rev-parse", f"{refs[MAIN]}^{{tree}}", folder=folder).strip()
            commit = repository.commit_tree(folder, tree, "-m", f"Current version: {current}")
            moves = {MAIN: commit, f"refs/tags/{LATEST}": commit}
            moves |= {f"refs/tags/{current}": commit} if current else {}
            moves |= {known[version]: "" for version in {*present, *with_them}}
            repository.push(folder, moves, refs)
            gone, kept = set[str](), {*head.values()}
            for version, ref in known.items():
                blobs = repository.tree(folder, refs[ref]).values()
                (gone if version in present else kept).update(blobs)
            gone -= kept
            sizes = [int(repository.git("cat-file", "-s", blob, folder=folder)) for blob in gone]
        repository.collect()
        others = sorted({*with_them} - {*present}, key=version_key)
        notes = [f"{', '.join(others)} went too: their history had the files"] if others else []
        server = "its server removes what no commit names when it collects garbage; objects of "
        notes.append(f"{server}Git LFS are removed by hand there")
        return Erased(tuple(present), len(gone), sum(sizes), tuple(notes))
