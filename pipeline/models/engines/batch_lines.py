"""Requests as the lines of a provider's batch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.models.http.batches import BatchInterface, custom_id
from pipeline.models.http.client import HttpClient
from pipeline.models.http.reading import Asked
from pipeline.models.journal.batches import BatchRequest
from pipeline.models.journal.requests import PreparedRequest

STREAMING: Final = frozenset({"stream", "stream_options"})
"""Fields of a body that a batch does not take."""
NO_TAG: Final = "0" * 32


@dataclass(frozen=True)
class Line:
    """A request as it is submitted.

    Args:
        prepared: The request.
        path: Where it would go by itself.
        text: Its line, under a name without the batch's tag.
        sent: What goes to the server beside the prompt; see `PreparedRequest.sent`.
    """

    prepared: PreparedRequest
    path: str
    text: bytes
    sent: str | None

    def named(self, tag: str) -> bytes:
        """The line under the name that its request has in a batch.

        Args:
            tag: The batch's.
        """
        key = self.prepared.key
        return self.text.replace(custom_id(key, NO_TAG).encode(), custom_id(key, tag).encode(), 1)


def line_of(prepared: PreparedRequest, client: HttpClient, interface: BatchInterface) -> Line:
    """The line of a request. The batch is not known yet; all names are equally long.

    Args:
        prepared: The request.
        client: How the server spells it.
        interface: The form of the batch.

    Raises:
        UserError: The server has nothing for a part of the request.
    """
    reader = client.reader
    body = {k: v for k, v in reader.body(prepared).items() if k not in STREAMING}
    path = client.provider.path(prepared, client.name, reader.dialect)
    text = interface.line(custom_id(prepared.key, NO_TAG), path, body)
    return Line(prepared, path, text, reader.sent(prepared, body))


def adopt_spelling(
    batch: Sequence[BatchRequest], asked: Mapping[str, PreparedRequest], client: HttpClient
) -> None:
    """Spell requests as those of an earlier batch: what its process had learned need not be again.

    Args:
        batch: The requests of the batch.
        asked: Those that are asked now, by key.
        client: How the server spells them.
    """
    adopted = set[tuple[Any, ...]]()
    for request in batch:
        prepared = asked.get(request.key)
        if prepared is None or request.sent is None:
            continue
        body = json.loads(request.sent)
        kind = (prepared.decoding, *body)
        if kind not in adopted:
            adopted.add(kind)
            client.reader.adopt(Asked(prepared, body))


def as_sent(prepared: PreparedRequest, client: HttpClient) -> Asked:
    """A request of a batch as it was sent.

    Args:
        prepared: The request.
        client: How the server spells it.
    """
    reader = client.reader
    body = json.loads(prepared.sent) if prepared.sent else reader.plain_body(prepared)
    if reader.dialect.stream:  # no batch has these fields, so nothing is spelled anew for them
        body |= {k: v for k, v in reader.body(prepared).items() if k in STREAMING}
    return Asked(prepared, body)
