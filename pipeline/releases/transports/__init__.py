"""Where releases are published: the hub, S3, a folder, a git repository.

A transport brings a place into the state that a publication describes, whatever state an
earlier call left there: it looks first, and does what is missing. So a call that was killed or
lost an answer is mended by the next one, and a call too many changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeVar

from pipeline.errors import UserError
from pipeline.releases.publication import Publication
from pipeline.remote.waiting import Patience

T = TypeVar("T")
SCHEMES: Final = "hf://ORG/NAME, s3://BUCKET/PREFIX, file:///FOLDER or git+URL"


@dataclass(frozen=True)
class Outcome:
    """What a call did.

    Args:
        address: Where the version is, for people.
        is_new: Whether anything was sent.
        latest: The version that `latest` names now; None where it was not moved.
        notes: Sentences about what else a person should know.
    """

    address: str
    is_new: bool
    latest: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Erased:
    """What an erasure removed.

    Args:
        versions: The versions that are gone.
        files: How many files are gone.
        bytes: Their size.
        notes: What is left to do by hand.
    """

    versions: tuple[str, ...]
    files: int
    bytes: int
    notes: tuple[str, ...] = field(default=())


class Source(NamedTuple):
    """A published version as its users get it.

    Attributes:
        folder: Its files by their paths, fetched anew.
        path: What `datasets.load_dataset` takes: a repository or a folder.
        revision: The tag, where it is a repository.
    """

    folder: Path
    path: str
    revision: str | None = None


class Transport(Protocol):
    """A place where releases are published."""

    def check(self, publication: Publication, move_latest: bool) -> None:
        """Refuse what the place cannot do, before anything is sent.

        Args:
            publication: What is to be published.
            move_latest: Whether `latest` is to be moved.
        """

    def publish(self, publication: Publication, move_latest: bool) -> Outcome:
        """Bring the place into the state of the publication; again, it changes nothing.

        Args:
            publication: What is to be published.
            move_latest: Whether `latest` is to name this version.
        """

    def has_version(self, version: str) -> bool:
        """Whether a version is there; nothing is fetched.

        Args:
            version: The version.
        """

    def download(self, publication: Publication, folder: Path) -> Source:
        """Fetch the published version anew.

        Args:
            publication: What was published.
            folder: An empty folder.
        """

    def retry(self, step: Callable[[], T]) -> T:
        """The result of a step that reads from the place, tried again where that may help.

        Args:
            step: Something that may be done again.
        """

    def rollback(self, name: str, version: str) -> Outcome:
        """Make an earlier version the current one, without any local file.

        Args:
            name: The release's name.
            version: The earlier version.
        """

    def erase(self, versions: list[str]) -> Erased:
        """Remove versions and what only they hold for good.

        Args:
            versions: The versions.
        """


def open_transport(to: str, patience: Patience) -> Transport:
    """The transport of an address.

    Args:
        to: `hf://ORG/NAME`, `s3://BUCKET/PREFIX`, `file:///FOLDER` or `git+URL`.
        patience: How long to wait for a server that cannot answer.

    Raises:
        UserError: It is no such address.
    """
    scheme, separator, rest = to.partition("://")
    if separator and rest:
        if scheme == "hf":
            from pipeline.releases.transports.hub import HubTransport

            return HubTransport(rest, patience)
        if scheme == "s3":
            from pipeline.releases.transports.s3 import S3Transport

            return S3Transport(rest, patience)
        if scheme == "file":
            from pipeline.releases.transports.folder import FolderTransport

            return FolderTransport.of_url(to)
        if scheme.startswith("git+"):
            from pipeline.releases.transports.git import GitTransport

            return GitTransport(to.removeprefix("git+"), patience)
    raise UserError(f"an address to publish to must be {SCHEMES}, got {to!r}")
