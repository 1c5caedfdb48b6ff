"""Erasing versions from the hub: large files first, then history, then tags.

The large files that only these versions hold are deleted for good. Small files (the card with
its samples) live in the history, which is squashed to the current version; versions between
an erased one and the current one have that history too, so their tags go with it. Tags go
last: until then they say what is left to do, so an erasure that was interrupted goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

from pipeline.errors import UserError
from pipeline.releases.transports import Erased
from pipeline.releases.transports.hub_repository import KIND, MAIN, HubRepository
from pipeline.store.releases import LATEST, version_key


@dataclass
class Erasure:
    """An erasure of versions.

    Args:
        repository: The repository.
        versions: The versions; those that it lacks count as erased.
    """

    repository: HubRepository
    versions: list[str]

    def run(self) -> Erased:
        """Erase them.

        Raises:
            UserError: The current version is one of them, or the hub refuses.
        """
        tags = self.repository.retry(self.repository.versions)
        present = sorted(set(self.versions) & tags.keys(), key=version_key)
        if not present:
            return Erased((), 0, 0)
        self._refuse_current()
        first = version_key(present[0])
        later = [v for v in tags if version_key(v) > first and v not in present]
        with_them = sorted({*later} - {self.current}, key=version_key)
        kept = {oid for v, oid in tags.items() if v not in (*present, *with_them)}
        objects = self._delete_objects({tags[version] for version in present}, kept)
        self.repository.retry(self._squash)
        for version in [*with_them, *present]:
            self.repository.retry(partial(self._untag, version))
        notes = [f"{', '.join(with_them)} went too: their history had the files"] * bool(with_them)
        return Erased(tuple(present), len(objects), sum(objects.values()), tuple(notes))

    @cached_property
    def head(self) -> str:
        """The newest commit."""
        return str(self.repository.retry(self.repository.head))

    @cached_property
    def current(self) -> str | None:
        """The version that the head holds."""
        return self.repository.retry(lambda: self.repository.version_of(self.head))

    def _refuse_current(self) -> None:
        if self.current in self.versions:
            raise UserError(
                "a version that is erased must not be the current one, "
                f"got {self.current}, which is",
                where=f"hf://{self.repository.name}",
                hint="publish a release without the rows first (release RECIPE, publish RECIPE)",
            )

    def _delete_objects(self, erased: set[str], kept: set[str]) -> dict[str, int]:
        """Delete the large files that only the erased commits have; their sizes by digest."""

        def delete() -> dict[str, int]:
            doomed = self._objects(erased).keys() - self._objects({*kept, self.head}).keys()
            files = self.repository.api.list_lfs_files(self.repository.name, repo_type=KIND)
            listed = [file for file in files if file.file_oid in doomed]
            self.repository.api.permanently_delete_lfs_files(
                self.repository.name, listed, rewrite_history=True, repo_type=KIND
            )
            return {file.file_oid: file.size for file in listed}

        return self.repository.retry(delete)

    def _objects(self, commits: set[str]) -> dict[str, int]:
        trees = [self.repository.tree(commit) for commit in commits]
        files = [file.lfs for tree in trees for file in tree.values() if file.lfs]
        return {file.sha256: file.size for file in files}

    def _squash(self) -> None:
        """Leave one commit on the main branch, with the tags of the current version on it."""
        api, name = self.repository.api, self.repository.name
        history = api.list_repo_commits(name, repo_type=KIND, revision=MAIN)
        if len(history) > 1:
            title = next(
                (c.title for c in history if c.title.endswith(f" {self.current}")), "squashed"
            )
            api.super_squash_history(name, branch=MAIN, commit_message=title, repo_type=KIND)
        head, tags = self.repository.head(), self.repository.tags()
        for tag in (self.current, LATEST):
            if tag is not None and tags.get(tag) != head:
                if tag in tags:
                    api.delete_tag(name, tag=tag, repo_type=KIND)
                api.create_tag(name, tag=tag, revision=head, repo_type=KIND)

    def _untag(self, version: str) -> None:
        if version in self.repository.tags():
            self.repository.api.delete_tag(self.repository.name, tag=version, repo_type=KIND)
