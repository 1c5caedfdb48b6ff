"""The interfaces of providers: one module each, with the functions that `Provider` lists.

They are pure: from a request to a path and a body, from the events of a stream to the answer
that would have come without streaming. What an answer means is read from the journal, by its
own form (see `pipeline.models.journal.responses`), so a replay needs none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from pipeline.models.http.dialect import Dialect
from pipeline.models.http.providers import anthropic, gemini, openai
from pipeline.models.journal.requests import PreparedRequest


class Provider(Protocol):
    """What a module of this package has.

    Attributes:
        PROMPT_FIELDS: The fields of a body that hold the prompt.
    """

    PROMPT_FIELDS: frozenset[str]

    def headers(self, key: str | None, api: Any) -> dict[str, str]:
        """The headers of every request."""
        ...

    def path(self, prepared: PreparedRequest, name: str, dialect: Dialect) -> str:
        """Where a request goes, relative to the base address, with its query.

        Args:
            prepared: The request.
            name: What the server calls the model.
            dialect: How the server spells the parameters.
        """
        ...

    def body(self, prepared: PreparedRequest, name: str, dialect: Dialect) -> dict[str, Any]:
        """The JSON of a request.

        Args:
            prepared: The request.
            name: What the server calls the model.
            dialect: How the server spells the parameters.

        Raises:
            UnsupportedError: The interface has nothing for a part of the request.
        """
        ...

    def assembled(self, events: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        """The answer in the events of a stream; None for a stream that was cut."""
        ...


PROVIDERS: Final[Mapping[str, Provider]] = {
    "openai": openai,
    "azure": openai,
    "anthropic": anthropic,
    "gemini": gemini,
}
"""The modules by `Api.provider`."""
