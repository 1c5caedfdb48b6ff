"""A release on its way out: which one, by which rules, what the gate says, what is sent."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import Exit, UserError, command_line
from pipeline.execution.snapshot import Snapshot, release_named
from pipeline.recipe.publication import Publish
from pipeline.recipe.recipe import Recipe
from pipeline.releases.findings import Finding
from pipeline.releases.options import publication_of
from pipeline.releases.plugins import plugin
from pipeline.releases.publication import Publication, prepare
from pipeline.releases.publish import publish
from pipeline.releases.transports import SCHEMES, Outcome, open_transport
from pipeline.remote.waiting import DEFAULT_SECONDS, Patience
from pipeline.store.releases import (
    latest,
    parse_reference,
    read_release,
    releases,
    version_before,
)
from pipeline.store.store import Store
from schemas.release import Release


class Sent(NamedTuple):
    """What was published.

    Attributes:
        outcome: What had to be done.
        rows: The rows that were read back.
        files: How many files the version has.
        bytes: Their size.
    """

    outcome: Outcome
    rows: int
    files: int
    bytes: int


@dataclass(frozen=True)
class Outgoing:
    """A release with the rules by which it is published.

    Args:
        store: Where it is.
        release: The release.
        options: The section `publish`, with the address of this call.
    """

    store: Store
    release: Release
    options: Publish

    @property
    def reference(self) -> str:
        """`NAME@VERSION`."""
        return f"{self.release['name']}@{self.release['version']}"

    @property
    def to(self) -> str:
        """Where it is published.

        Raises:
            UserError: Neither the call nor the recipe says where.
        """
        return _address(self.options.to, self.reference)

    @cached_property
    def snapshot(self) -> Snapshot:
        """Its stages with their artifacts."""
        return Snapshot.of_release(self.store, self.release)

    @cached_property
    def findings(self) -> list[Finding]:
        """What the gate finds, those that refuse first."""
        check: Callable[..., list[Finding]] = plugin("check")
        return check(self.store, self.release, self.snapshot, self.options)

    def pass_gate(self) -> None:
        """Refuse what the gate refuses.

        Raises:
            UserError: It refuses (exit code 7); the text has every reason with its rows.
        """
        refusals = [finding for finding in self.findings if finding.level == "refuse"]
        if refusals:
            many = f"{len(refusals)} reasons" if len(refusals) > 1 else "1 reason"
            raise UserError(
                f"the gate refuses {self.reference} for {many}; nothing was sent\n"
                + "\n".join(str(finding) for finding in refusals),
                code=Exit.REFUSED,
            )

    def prepare(self, folder: Path) -> Publication:
        """Stage what is sent.

        Args:
            folder: Where the rendered files are written.

        Raises:
            UserError: The store lacks a file of it, or the card cannot be rendered.
        """
        before = version_before(self.store, self.release)
        arguments = (self.store, self.release, self.snapshot)
        card: str = plugin("card")(*arguments, before, self.options)
        croissant = plugin("croissant")(*arguments, self.options)
        return prepare(self.store, self.release, folder, card=card, croissant=croissant)

    def publish(self, *, move_latest: bool = True, wait: float = DEFAULT_SECONDS) -> Sent:
        """Pass the gate, send the release, read it back.

        Args:
            move_latest: Whether `latest` is to name it.
            wait: Seconds to wait at most for a server that cannot answer.

        Raises:
            UserError: The gate or the place refuses, or the place does not answer in time; its
                `code` says which.
        """
        to = self.to
        self.pass_gate()
        with tempfile.TemporaryDirectory(prefix="gristmill-") as folder:
            publication = self.prepare(Path(folder))
            outcome, rows = publish(publication, to, move_latest=move_latest, wait=wait)
        return Sent(outcome, rows, len(publication.files), publication.bytes)

    def taken_down_versions(self) -> list[str]:
        """The versions of this name that have rows of the take-down list, oldest first.

        Raises:
            UserError: There is no list, or a version's artifacts are not in the store.
        """
        if self.options.takedown is None:
            raise UserError(
                "erasing taken-down rows needs a take-down list",
                where=self.reference,
                hint="name one in the recipe: `publish: {takedown: FILE}`",
            )
        return [
            release["version"]
            for release in releases(self.store, self.release["name"])
            if plugin("takedown")(
                self.store, release, Snapshot.of_release(self.store, release), self.options
            )
        ]


def _address(to: str | None, reference: str) -> str:
    if to is None:
        raise UserError(
            f"publish must know where to, got neither --to nor `publish: {{to: ...}}` in the "
            f"recipe of {reference}",
            hint=f"--to {SCHEMES}",
        )
    return to


def destination(
    store: Store,
    reference: str,
    to: str | None = None,
    overrides: Sequence[str] = (),
    profile: str | None = None,
) -> tuple[str, str]:
    """The name and the address of what was published: no release need be in the store.

    Args:
        store: The store; read only for the address of a release without `to`.
        reference: `NAME@VERSION`, a recipe, or the name of a release.
        to: Where it is published; by default where its rules say.
        overrides: What `--set` changes; of a recipe alone.
        profile: The profile to apply; of a recipe alone.

    Raises:
        UserError: There is no such recipe or release, or no address.
    """
    if released := release_named(store, reference):
        name = parse_reference(released).name
        to = to or publication_of(read_release(store, released)).to
    else:
        recipe = Recipe.load(reference, overrides, profile)
        name, to = recipe.name, to or recipe.publish.to
    return name, _address(to, reference)


def outgoing(
    store: Store,
    reference: str,
    to: str | None = None,
    overrides: Sequence[str] = (),
    profile: str | None = None,
) -> Outgoing:
    """The release that a person means, with the rules for it.

    Args:
        store: The store.
        reference: `NAME@VERSION`, or a recipe, which means its latest release and the rules
            that the recipe has now; or `NAME`, the latest release of a name that no recipe has.
        to: Where it is published; by default where its rules say.
        overrides: What `--set` changes; of a recipe alone.
        profile: The profile to apply; of a recipe alone.

    Raises:
        UserError: There is no such release, or the address is none.
    """
    if to is not None:
        open_transport(to, Patience())
        to = to.replace("hf://datasets/", "hf://", 1).rstrip("/")
    if released := release_named(store, reference):
        if overrides or profile:
            raise UserError(
                f"{reference} is a release: it cannot be changed by --set or --profile",
                hint="name the recipe instead",
            )
        release = read_release(store, released)
        options = publication_of(release)
    else:
        recipe = Recipe.load(reference, overrides, profile)
        newest = latest(store, recipe.name)
        if newest is None:
            hint = command_line("release", reference, store=store.root)
            raise UserError(f"{recipe.name} has no release yet", where=reference, hint=hint)
        release, options = newest, recipe.publish
    return Outgoing(store, release, replace(options, to=to) if to else options)
