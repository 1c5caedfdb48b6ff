"""What a stage may touch while it runs: execution only, nothing that changes a result.

The signature of a stage is the line between identity (its edges and options,
hashed) and execution (this object, never hashed).
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


def _silent(done: float, total: float | None) -> None:
    """Progress that nobody watches."""


@dataclass
class Context:
    """files: a folder to fill; what lies there is committed with the rows.
    work: a folder that survives kills, one for each fingerprint (checkpoints,
    decoded vectors); removed once the stage is committed.
    store: where the journal lives.
    counters: what was really used in this run, in units such as `requests` or `tokens`.
    budget: what language models may still use.
    """

    files: Path
    work: Path
    store: Path
    report: Report = _silent
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
        """Tell whoever watches how far the stage is, in rows or whatever unit it counts."""
        self.report(done, total)

    def count(self, **used: int) -> None:
        """Add to the counters: `ctx.count(requests=1, tokens=512)`."""
        self.counters.update(used)

    @overload
    def open(self, model: LanguageModel) -> Engine: ...
    @overload
    def open(self, model: Embedder) -> Encoder: ...
    def open(self, model: LanguageModel | Embedder) -> Engine | Encoder:
        """The running engine of a model; loaded once per process."""
        from pipeline.models.engines.registry import open_engine

        return open_engine(model, self)
