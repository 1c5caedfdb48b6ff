"""Publishing a release: gate, transport, read back, in this order.

Nothing is sent before the gate has passed. Only what was read back counts as published.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.releases.publication import Publication
from pipeline.releases.read_back import read_back
from pipeline.releases.transports import Erased, Outcome, Transport, open_transport
from pipeline.remote.waiting import DEFAULT_SECONDS, Patience


@contextmanager
def opened(to: str, wait: float = DEFAULT_SECONDS) -> Iterator[Transport]:
    """The transport of an address, with what its libraries need set.

    Args:
        to: `hf://ORG/NAME`, `s3://BUCKET/PREFIX`, `file:///FOLDER` or `git+URL`.
        wait: Seconds to wait at most for a server that cannot answer.

    Raises:
        UserError: It is no such address.
    """
    transport = open_transport(to, Patience(wait, to))
    if not to.startswith("hf://"):
        yield transport
        return
    from pipeline.releases.transports.hub_client import patient_client

    with patient_client(wait):
        yield transport


def publish(
    publication: Publication, to: str, *, move_latest: bool = True, wait: float = DEFAULT_SECONDS
) -> tuple[Outcome, int]:
    """Publish a release and read it back.

    The same call again changes nothing; after one that was interrupted it does the rest.

    Args:
        publication: The release, prepared. The gate has passed.
        to: The address.
        move_latest: Whether `latest` is to name it.
        wait: Seconds to wait at most for a server that cannot answer.

    Returns:
        What was done, and how many rows were read back.

    Raises:
        UserError: The place refuses, does not answer in time, or holds something else.
    """
    with opened(to, wait) as transport:
        transport.check(publication, move_latest)
        outcome = transport.publish(publication, move_latest)
        return outcome, read_back(transport, publication)


def has_version(version: str, to: str, wait: float = DEFAULT_SECONDS) -> bool:
    """Whether a version is in a place.

    Args:
        version: The version.
        to: The address.
        wait: Seconds to wait at most for a server that cannot answer.

    Raises:
        UserError: The place refuses, or does not answer in time.
    """
    with opened(to, wait) as transport:
        return transport.has_version(version)


def rollback(name: str, version: str, to: str, wait: float = DEFAULT_SECONDS) -> Outcome:
    """Make an earlier version the current one of a place.

    Args:
        name: The release's name.
        version: The earlier version; no local file of it is needed.
        to: The address.
        wait: Seconds to wait at most for a server that cannot answer.

    Raises:
        UserError: It is not published there, or the place refuses or does not answer.
    """
    with opened(to, wait) as transport:
        return transport.rollback(name, version)


def erase(versions: list[str], to: str, wait: float = DEFAULT_SECONDS) -> Erased:
    """Remove versions from a place for good.

    Args:
        versions: The versions; the current one cannot be among them.
        to: The address.
        wait: Seconds to wait at most for a server that cannot answer.

    Raises:
        UserError: The current version is one of them, or the place refuses.
    """
    with opened(to, wait) as transport:
        return transport.erase(versions)
