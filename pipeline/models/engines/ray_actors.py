"""Actors of a Ray cluster that hold a language model, and what is sent to them."""

from __future__ import annotations

import importlib
import logging
import os
import tempfile
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import Exit, UserError
from pipeline.models.base import LanguageModel, Scored
from pipeline.models.identity import identity
from pipeline.models.journal.gate import Gate
from pipeline.models.journal.requests import Batch, PreparedRequest
from pipeline.store.file_hashes import FileDigests

_log = logging.getLogger(__name__)

IN_FLIGHT: Final = 2
"""Batches that an actor has at once: the one that it computes and the next."""

MAX_LOSSES: Final = 2
"""How often a single request is sent again whose actor was lost."""

Task = TypeVar("Task", PreparedRequest, tuple[int, Scored])


class Host:
    """A model's weights on a node; what an actor is. It can do nothing before `load`."""

    def load(self, model: LanguageModel, expected: dict[str, Any], code: str) -> str:
        """Load the model.

        Args:
            model: The model.
            expected: Its identity on the driver.
            code: Hash of the driver's code.

        Returns:
            The kind of device that computes: what the shape of a batch depends on.

        Raises:
            UserError: The weights or the code are others here, or the model cannot be loaded.
        """
        from pipeline.context import Context

        node = os.uname().nodename
        self._scratch = tempfile.TemporaryDirectory(prefix="gristmill-")
        context = Context.scratch(Path(self._scratch.name))
        if code != code_of_engines():
            raise UserError(
                f"{node} has other code of the engines",
                hint="every machine needs the same checkout at the same path",
            )
        if identity(model, FileDigests(context.store / "files.json")) != expected:
            raise UserError(
                f"{node} has other weights of {model.model}",
                hint="every machine needs the same weights at the same path",
            )
        loaded = importlib.import_module(f"pipeline.models.engines.{model.engine}").load(model)
        self._engine = loaded.bind(model, expected, context)
        self._budget = context.budget
        return loaded.device.type if hasattr(loaded, "device") else ""

    def answer(self, requests: list[PreparedRequest]) -> Batch:
        """The answers to one batch of requests, which the driver has admitted.

        Args:
            requests: The requests.
        """
        gate = Gate(frozenset(r.key for r in requests), self._budget)
        batches = []
        for batch in self._engine._send(requests, gate):
            for request, _ in batch:
                gate.reconcile(request)
            batches += batch
        return batches

    def score(self, sequences: list[tuple[int, Scored]]) -> list[tuple[int, NDArray[np.float32]]]:
        """The log-probabilities of sequences.

        Args:
            sequences: Each with its number.
        """
        scores = self._engine.loglikelihood([scored for _, scored in sequences])
        return [(i, score) for (i, _), score in zip(sequences, scores, strict=True)]


@cache
def code_of_engines() -> str:
    """A hash of the modules that answer requests and score sequences."""
    folder = Path(__file__).parent.parent
    content = b"".join(path.read_bytes() for path in sorted(folder.rglob("*.py")))
    return blake2b(content, digest_size=16).hexdigest()


@dataclass
class Actors:
    """The actors of one model, started when they are needed.

    Args:
        model: The model.
        expected: Its identity.

    Attributes:
        running: Those that have loaded it.
        device: The kind of device that they compute on.
    """

    model: LanguageModel
    expected: dict[str, Any]
    running: list[Any] = field(default_factory=list, init=False)
    device: str = field(default="", init=False)

    def ensure(self) -> None:
        """Start an actor for each GPU of the cluster, or for each node if there is none.

        Raises:
            UserError: No node is left; or the model cannot be loaded on one.
        """
        import ray

        if self.running:
            return
        # Another model of the stage may have taken every GPU: it is loaded again when it is asked.
        for other in _started:
            other.close()
        _started[:] = [self]
        # They load at the same time.
        loading = [
            (actor, actor.load.remote(self.model, self.expected, code_of_engines()))
            for actor in self._placed()
        ]
        for actor, loaded in loading:
            try:
                self.device = ray.get(loaded)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError:
                continue  # its node was lost meanwhile
            self.running.append(actor)
        if not self.running:
            raise UserError(
                "no node of the Ray cluster is left", where=self.model.model, code=Exit.TRY_AGAIN
            )

    def _placed(self) -> Iterator[Any]:
        """Actors that have loaded nothing yet, each bound to its node."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        listed: list[Any] = ray.nodes()  # type: ignore[no-untyped-call]
        nodes = [node for node in listed if node["Alive"] and node["Resources"].get("CPU")]
        gpus = self.model.engine_options.get("tensor_parallel_size", 1)
        on_gpu = self.model.device != "cpu" and any(n["Resources"].get("GPU") for n in nodes)
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            # No core is held: the driver runs one stage at a time, and on two nodes of one core
            # the second model of a stage would wait for ever.
            options = {"num_cpus": 0, "num_gpus": gpus if on_gpu else 0}
            actor = ray.remote(Host).options(scheduling_strategy=there, **options)
            for _ in range(int(node["Resources"].get("GPU", 0)) // gpus if on_gpu else 1):
                yield actor.remote()

    def close(self) -> None:
        """End the actors and free their memory."""
        import ray

        for actor in self.running:
            if ray.is_initialized():
                ray.kill(actor)
        self.running.clear()


_started: Final[list[Actors]] = []
"""The model that has actors now."""


@dataclass
class Dispatch(Generic[Task]):
    """Sends batches to actors, and sends again what is lost with one.

    Args:
        actors: The actors.
        method: The name of the method that computes a batch.
    """

    actors: Actors
    method: str
    _lost: deque[tuple[list[Task], int]] = field(default_factory=deque, init=False)
    _open: dict[Any, tuple[Any, list[Task], int]] = field(default_factory=dict, init=False)

    @property
    def busy(self) -> bool:
        """Whether some batch is not done, or to be sent again."""
        return bool(self._open or self._lost)

    @property
    def has_room(self) -> bool:
        """Whether an actor can take one more batch."""
        self.actors.ensure()
        return len(self._open) < IN_FLIGHT * len(self.actors.running)

    def send(self, batch: list[Task], losses: int = 0) -> None:
        """Send a batch to the actor that has the fewest.

        Args:
            batch: The batch.
            losses: How many actors it has seen die when it was a single one.
        """
        held = [actor for actor, *_ in self._open.values()]
        actor = min(self.actors.running, key=held.count)
        self._open[getattr(actor, self.method).remote(batch)] = actor, batch, losses

    def receive(self) -> Iterator[tuple[list[Task], Any]]:
        """Wait for a batch, and give those that are done, each with its result.

        Raises:
            UserError: What the engine raised; or a single request ends every actor.
        """
        import ray

        while self._lost and self.has_room:
            self.send(*self._lost.popleft())
        # A signal that another thread received is handled once the main thread wakes.
        done, _ = ray.wait(list(self._open), timeout=0.2)
        for handle in done:
            actor, batch, losses = self._open.pop(handle)
            try:
                result = ray.get(handle)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                self._lose(actor, batch, losses, error)
                continue
            yield batch, result

    def _lose(self, actor: Any, batch: list[Task], losses: int, error: Exception) -> None:
        """Take back a batch whose actor is gone, in halves: it may have run out of memory."""
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if actor in self.actors.running:
            self.actors.running.remove(actor)
        half = len(batch) // 2
        if half:
            self._lost += [(batch[:half], 0), (batch[half:], 0)]
            _log.warning("an actor was lost (%s); what it had is sent again in halves", why)
        elif losses < MAX_LOSSES:
            self._lost.append((batch, losses + 1))
        else:
            raise UserError(
                "actors were lost with a single request",
                where=self.actors.model.model,
                why=why,
                hint="give the nodes more memory, then run again: all answers so far are kept",
            )
