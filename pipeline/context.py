"""What a stage may use while it runs: execution only, nothing that changes a result.

The signature of a stage is the line between identity (its inputs and options, which
are hashed) and execution (this object, which never is).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

from pipeline.models.base import Embedder, Encoder, Engine, LanguageModel
from pipeline.models.budget import Budget

Report = Callable[[float, float | None], None]
"""Called with what is done and the total, or None where that is not known."""


def _ignore(done: float, total: float | None) -> None:
    """Report progress to nobody."""


@dataclass
class Context:
    """What the runner hands to a stage function as its first argument.

    Args:
        files: A folder to fill; what lies there is committed with the rows.
        work: A folder that survives kills, one for each fingerprint (for checkpoints,
            decoded vectors); it is removed once the stage is committed.
        store: The folder of the store, in which the request journal lies.
        report: Where progress goes.
        counters: What was used in this run, in units such as `requests` or `tokens`.
        budget: What language models may still use.

    Example:
        A stage is a plain function and can be called as one:

        >>> import tempfile
        >>> import polars as pl
        >>> from stages.select.random import random
        >>> ctx = Context.scratch(Path(tempfile.mkdtemp()))
        >>> rows = pl.DataFrame({"id": ["a", "b", "c"]})
        >>> random(ctx, rows, budget=2)["drop_reason"].null_count()
        2
    """

    files: Path
    work: Path
    store: Path
    report: Report = _ignore
    counters: Counter[str] = field(default_factory=Counter)
    budget: Budget = field(default_factory=Budget)

    @classmethod
    def scratch(cls, folder: Path) -> Context:
        """A context in an empty folder, for calling a stage as a plain function."""
        context = cls(folder / "files", folder / "work", folder / "store")
        for path in (context.files, context.work, context.store):
            path.mkdir(parents=True, exist_ok=True)
        return context

    def progress(self, done: float, total: float | None = None) -> None:
        """Report progress in rows, or in another unit."""
        self.report(done, total)

    def count(self, **amounts: int) -> None:
        """Add to the counters: `ctx.count(requests=1, tokens=512)`."""
        self.counters.update(amounts)

    @overload
    def open(self, model: LanguageModel) -> Engine: ...
    @overload
    def open(self, model: Embedder) -> Encoder: ...
    def open(self, model: LanguageModel | Embedder) -> Engine | Encoder:
        """The running engine of a model; it is loaded once per process."""
        # Engines need torch or a server's client: most stages never open one.
        from pipeline.models.engines.registry import open_engine

        return open_engine(model, self)
