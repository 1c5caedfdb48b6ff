"""Several models of one stage: those whose providers' batches take a day wait at the same time.

One after the other, n models would take n days, and a run that does not wait would have to be
started anew after each. Weights on this machine and servers that answer at once are asked in turn,
since they would only share what there is.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from typing import Final, Generic, TypeVar

from pipeline.context import Context
from pipeline.errors import Exit, UserError
from pipeline.models.base import Engine, LanguageModel
from pipeline.models.counting import is_counting
from pipeline.models.identity import identity
from pipeline.store.file_hashes import FileDigests

T = TypeVar("T")
INTERVAL: Final = 0.2
"""Seconds after which the main thread looks whether it was interrupted."""


def side_by_side(
    ctx: Context, models: Sequence[LanguageModel], work: Callable[[int, Engine], T]
) -> list[T]:
    """What each model's work gives, in the order of the models.

    Args:
        ctx: Opens the models.
        models: The models. Of those with `batch` each has a thread, if there are several.
        work: From the position of a model and its engine to the result. What it changes must be
            of that model alone.

    Raises:
        UserError: One of them raised it; that all still wait (exit code 6) is one error.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> model = LanguageModel("data/models/tinylm")
        >>> ctx = Context.scratch(Path(tempfile.mkdtemp()))
        >>> side_by_side(ctx, [model, model], lambda position, engine: (position, engine.name))
        [(0, 'tinylm'), (1, 'tinylm')]
    """
    groups = [] if is_counting() else _groups(ctx, models)
    if len(groups) < 2:
        return [work(position, ctx.open(model)) for position, model in enumerate(models)]
    together = _Together(ctx, work)
    together.begin([{position: models[position] for position in group} for group in groups])
    try:
        for position, model in enumerate(models):
            if model.batching is None:
                together.results[position] = work(position, ctx.open(model))
        together.join()
    finally:
        together.end()
    return [together.results[position] for position in range(len(models))]


def _groups(ctx: Context, models: Sequence[LanguageModel]) -> list[list[int]]:
    """The positions of models that ask in batches, in groups of which no two ask the same model.

    Equal requests would be sent, and paid for, by each thread that does not know of the others'.
    """
    files = FileDigests(ctx.store / "files.json")
    groups: list[tuple[set[str], list[int]]] = []
    for position, model in enumerate(models):
        if model.batching is None:
            continue
        asked = [model, *([model.fallback] if model.fallback else [])]
        names = {json.dumps(identity(one, files), sort_keys=True) for one in asked}
        shared = [group for group in groups if group[0] & names]
        groups = [group for group in groups if group not in shared]
        names = names.union(*(group[0] for group in shared))
        groups.append((names, [*(at for group in shared for at in group[1]), position]))
    return [positions for _, positions in groups]


class _Stopped(Exception):
    """Ends the work of a model, because that of another one has failed."""


@dataclass
class _Together(Generic[T]):
    """The work of models that wait at the same time.

    Args:
        ctx: The stage's.
        work: See `side_by_side`.

    Attributes:
        results: What came, by the models' positions.
        errors: What was raised instead.
    """

    ctx: Context
    work: Callable[[int, Engine], T]
    results: dict[int, T] = field(default_factory=dict)
    errors: dict[int, BaseException] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _progress: dict[int, tuple[float, float | None]] = field(default_factory=dict)
    _counters: list[Counter[str]] = field(default_factory=list)

    def begin(self, groups: Sequence[dict[int, LanguageModel]]) -> None:
        """Start the work of groups of models, each in a thread of its own.

        Args:
            groups: The models by their positions.
        """
        for number, models in enumerate(groups):
            ctx = replace(self.ctx, report=self._report(number), counters=Counter[str]())
            self._counters.append(ctx.counters)
            engines = {position: ctx.open(model) for position, model in models.items()}
            # A thread that has nothing else would not see replaced prompts.
            arguments = (self._run, engines)
            run = threading.Thread(target=copy_context().run, args=arguments, daemon=True)
            self._threads.append(run)
        for thread in self._threads:
            thread.start()

    def _run(self, engines: Mapping[int, Engine]) -> None:
        for position, engine in engines.items():
            try:
                self.results[position] = self.work(position, engine)
            except _Stopped:
                return
            except BaseException as error:
                self.errors[position] = error
                if not _waits(error):
                    self._stop.set()
                return

    def _report(self, number: int) -> Callable[[float, float | None], None]:
        """Reports the progress of all together; each question about a batch comes by here."""

        def report(done: float, total: float | None) -> None:
            if self._stop.is_set():
                raise _Stopped
            self._progress[number] = (done, total)
            known = list(self._progress.values())
            totals = [most for _, most in known if most is not None]
            whole = sum(totals) if len(totals) == len(known) else None
            self.ctx.report(sum(now for now, _ in known), whole)

        return report

    def join(self) -> None:
        """Wait until all have ended.

        Raises:
            UserError: One has failed, or some have no more time to wait.
        """
        for thread in self._threads:
            while thread.is_alive():
                thread.join(INTERVAL)  # without a time limit Ctrl-C would not be seen
        errors = [self.errors[position] for position in sorted(self.errors)]
        if failed := [error for error in errors if not _waits(error)]:
            raise failed[0]
        if errors:
            raise _waiting([error for error in errors if isinstance(error, UserError)])

    def end(self) -> None:
        """Have none go on, and count what they used."""
        self._stop.set()
        for counters in self._counters:
            self.ctx.counters.update(counters)


def _waits(error: BaseException) -> bool:
    return isinstance(error, UserError) and error.code is Exit.WAITING


def _waiting(errors: Sequence[UserError]) -> UserError:
    """What several models wait for, as one error."""
    first = errors[0]
    return UserError(
        *(", ".join(str(error.what) for error in errors),),
        where="; ".join(dict.fromkeys(str(error.where) for error in errors)),
        why="; ".join(str(error.why) for error in errors),
        hint=first.hint,
        code=Exit.WAITING,
    )
