"""Requests as the lines of a provider's batch."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final

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


@dataclass
class BatchInput:
    """The requests of a batch before they are submitted: in a file, since they may fill memory.

    Args:
        interface: The form of the batch.
        file: An empty file.

    Attributes:
        tag: Our own name of the batch.
        path: Where all requests would go by themselves.
        size: Their bytes so far.
        requests: The requests, each with what goes to the server beside its prompt.
    """

    interface: BatchInterface
    file: IO[bytes]
    tag: str = field(default_factory=lambda: uuid.uuid4().hex)
    path: str = ""
    size: int = 0
    requests: list[tuple[PreparedRequest, str | None]] = field(default_factory=list)

    def takes(self, line: Line, most: int, room: int) -> bool:
        """Whether a request may be added: the first one always.

        Args:
            line: The request.
            most: Most requests.
            room: Most bytes.
        """
        has_room = len(self.requests) < most and self.size + len(line.text) <= room
        return not self.requests or (has_room and line.path == self.path)

    def add(self, line: Line) -> None:
        """Add a request, under the name that it has in this batch.

        Args:
            line: The request.
        """
        before, between, _ = self.interface.AROUND
        key = line.prepared.key
        unnamed, named = (custom_id(key, tag).encode() for tag in (NO_TAG, self.tag))
        self.file.write(between if self.requests else before)
        self.file.write(line.text.replace(unnamed, named, 1))
        self.requests.append((line.prepared, line.sent))
        self.size += len(line.text) + 1
        self.path = line.path

    def close(self) -> IO[bytes]:
        """The file with all that is submitted."""
        self.file.write(self.interface.AROUND[2])
        self.file.flush()
        return self.file


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
