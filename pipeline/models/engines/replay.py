"""The engine that only reads the journal; a request that is not in it is an error.

With a journal and this engine the data set is rebuilt without weights and without a
server. Prompts are rendered as by the engine that sent them, so a model whose prompts
were rendered here needs its tokenizer again (but not its weights, if it has an `id`).

Example:
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from pipeline.context import Context
    >>> from pipeline.models import Decoding, LanguageModel, Request
    >>> from pipeline.models.journal.journal import Journal, JournalEntry
    >>> folder = TemporaryDirectory()
    >>> ctx = Context.scratch(Path(folder.name))
    >>> model = LanguageModel("writer", "replay", base_url="http://localhost:8000/v1")
    >>> engine = ctx.open(model)
    >>> question = Request("2 + 2 =", Decoding(max_tokens=4))

    The journal has no answer yet. An import, or another engine, would add it:

    >>> (prepared,) = engine.prepare([question])
    >>> response = {"text": " 4", "finish_reason": "stop"}
    >>> entry = JournalEntry(prepared.key, prepared.payload, response)
    >>> Journal(ctx.store / "journal").put_many([entry])
    >>> engine.generate([question])[0].text
    ' 4'
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from pipeline.errors import UserError, command_line
from pipeline.models.api import UNRECORDED
from pipeline.models.base import EngineContext, LanguageModel
from pipeline.models.engines.journaled import JournaledEngine
from pipeline.models.journal.gate import Gate
from pipeline.models.journal.requests import Batch, Failure, PreparedRequest
from pipeline.models.local.rendering import Rendering

MAX_SHOWN: Final = 200
"""Characters of a missing request's prompt that its error shows."""


class Replay:
    """What renders the prompts; there is nothing else to load.

    Args:
        model: The model whose answers are read.
    """

    process = False

    def __init__(self, model: LanguageModel) -> None:
        self.rendering = Rendering(model)

    def bind(
        self, model: LanguageModel, identity: dict[str, Any], ctx: EngineContext
    ) -> ReplayEngine:
        """The engine for one stage; see `registry.Loaded`."""
        return ReplayEngine(self.rendering, model, identity, ctx)

    def close(self) -> None:
        """Nothing is running."""


class ReplayEngine(JournaledEngine):
    """A model's answers as one stage sees them."""

    def _send(self, prepared: list[PreparedRequest], gate: Gate) -> Iterator[Batch]:
        missing = [request for request in prepared if request.key in gate.missing]
        if all(request.resample for request in missing):
            # A journal of before answers were sampled anew: they stay unreadable.
            yield [(request, Failure(UNRECORDED)) for request in missing]
            return
        first = missing[0]
        hint = command_line("journal", "import", "FILE", store=self._ctx.store)
        text = first.prompt if isinstance(first.prompt, str) else repr(first.prompt)
        raise UserError(
            f"the journal has no answer to the request {first.key} ({len(missing):,} are missing)",
            why=f"its prompt begins: {' '.join(text.split())[:MAX_SHOWN]}",
            hint=f"import the journal that has it ({hint}), or name an engine that can answer",
        )


def load(model: LanguageModel) -> Replay:
    """Prepare to render a model's prompts.

    Raises:
        UserError: The tokenizer is needed and cannot be loaded.
    """
    return Replay(model)
