"""Requests in a provider's batches: submitted together, answered within a day, for half the price.

It stands beside the scheduler of single requests and answers what an engine is asked in the same
way: each request ends in an answer or in a failure, and what may succeed later is asked again, in
the next batch. What is different is time. A run may end while a batch is under way, by a kill or
by exit code 6; the next run goes on with it:

    durable in the journal -> uploaded -> created -> polled -> its results durable -> gone

A process may end at each arrow, and no request is paid for twice: what the journal has in a batch
is sent nowhere else. A batch whose creation was not answered is searched for on the server (see
`batch_search.py`); only one that is not there is given up. What a budget does not admit is not
submitted; what was submitted counts as in flight, in all later runs too, until it is billed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from tempfile import TemporaryFile
from typing import IO, Any, Final

from pipeline.errors import UserError
from pipeline.models.api import Batching
from pipeline.models.base import EngineContext, LanguageModel
from pipeline.models.engines.batch_errors import not_uploaded, of_another_server, unknown, waiting
from pipeline.models.engines.batch_lines import BatchInput, adopt_spelling, line_of
from pipeline.models.engines.batch_open import RESULTS, OpenBatch
from pipeline.models.engines.batch_results import Outcome
from pipeline.models.engines.batch_search import search
from pipeline.models.http.batches import BatchState
from pipeline.models.http.batches.calls import BatchCalls, NoAnswerError, UnknownBatchError
from pipeline.models.http.client import HttpClient
from pipeline.models.http.reading import note_once
from pipeline.models.http.refusals import History
from pipeline.models.journal.batches import BatchRecord, BatchRequest
from pipeline.models.journal.gate import Gate
from pipeline.models.journal.journal import Journal
from pipeline.models.journal.requests import Batch, Discarded, Failure, PreparedRequest

FIRST_POLL: Final = 1.0
"""Seconds before the first question how far a batch is; then longer ones, up to `poll`."""
SLOWER: Final = 1.5
GRACE: Final = timedelta(seconds=120)
"""How long a batch may take to be listed whose creation was not answered, or be unknown."""
NOT_WAITING: Final = Batching(wait=False)
"""Of a model that is asked one by one, some of whose requests are in an earlier batch."""


@dataclass
class BatchScheduler:
    """Sends the requests of one call of an engine in batches.

    Args:
        client: The connections to the server, with what its answers mean.
        calls: The calls about batches.
        journal: The journal.
        gate: Decides which requests the budget admits.
        model: The model.
        ctx: The stage's.
        history: How the server answered the stage so far.
        known: How many requests the journal has answered, for the progress.
        waiting_since: When the stage has begun to wait, on the clock of `time.monotonic`.
    """

    client: HttpClient
    calls: BatchCalls
    journal: Journal
    gate: Gate
    model: LanguageModel
    ctx: EngineContext
    history: History
    known: int = 0
    waiting_since: float = field(default_factory=time.monotonic)
    _requests: dict[str, PreparedRequest] = field(default_factory=dict)
    _pending: deque[PreparedRequest] = field(default_factory=deque)
    _tries: dict[str, int] = field(default_factory=dict)
    _open: list[OpenBatch] = field(default_factory=list)
    _progress: int = 0
    _cap: int | None = None
    _room: int | None = None
    _queue_was_full: bool = False
    _last_error: str = ""

    def __post_init__(self) -> None:
        self.submits = self.model.batching is not None
        self._options = self.model.batching or NOT_WAITING
        price = self.model.price.in_batches() if self.model.price else None
        self._single = self.gate.billing
        self._billing = replace(self.gate.billing, price=price)

    def run(self, missing: Sequence[PreparedRequest]) -> Iterator[Batch]:
        """Yield answers as batches end; end when nothing is left, or nothing more fits the budget.

        Args:
            missing: The requests that the journal does not answer.

        Raises:
            UserError: Batches are under way, and there is no more time to wait (exit code 6).
                The server refuses all requests.
        """
        self._adopt(missing)
        self.calls.check()
        pause = FIRST_POLL
        while True:
            some_ended, self._queue_was_full = False, False
            for batch in list(self._open):
                state = self._asked(batch)
                if state is not None and state.ended:
                    yield from self._take_in(batch, state)
                    some_ended = some_ended or batch not in self._open
            ended = some_ended and not self._queue_was_full
            yield from self._submit_pending()
            waits_for_room = self._room is not None and self._pending and self._open
            if not self._awaited and not waits_for_room:
                return
            pause = FIRST_POLL if ended else pause * SLOWER
            self._wait(min(pause, self._options.poll))

    @property
    def _awaited(self) -> list[OpenBatch]:
        """The batches with requests that are asked now."""
        return [batch for batch in self._open if batch.keys]

    def _adopt(self, missing: Sequence[PreparedRequest]) -> None:
        """Go on with the batches of earlier runs.

        Raises:
            UserError: Requests are in a batch of another server.
        """
        self._requests = {request.key: request for request in missing}
        holding = self.journal.batches.holding(list(self._requests))
        held: set[str] = set()
        for record in self.journal.batches.open():
            keys = holding.get(record.tag, set())
            if record.server != self.client.base_url:
                if keys:
                    raise of_another_server(record, len(keys), self.client)
                continue
            if record.account.model != self.gate.billing.model:
                continue
            adopt_spelling(self.journal.batches.requests(record.tag), self._requests, self.client)
            held |= keys
            self._open.append(OpenBatch(record, keys, missed=datetime.now(UTC), is_adopted=True))
            self._resume(record, keys)
        self._pending = deque(request for request in missing if request.key not in held)

    def _resume(self, record: BatchRecord, keys: set[str]) -> None:
        """Reserve what the requests of an earlier run's batch may be billed that are asked now."""
        self.gate.billing = self._billing
        usage = self.gate.resume([self._requests[key] for key in keys])
        self.gate.billing = self._single
        budget, most = self.gate.budget, self.journal.batches.most(record.tag)
        if most and (record.account.recipe, record.account.stage) == (budget.recipe, budget.stage):
            left = len(self.journal.batches.requests(record.tag))
            self.gate.resume_batch(record.tag, most[1] if len(keys) == left else usage, *most)

    # Submitting

    def _submit_pending(self) -> Iterator[Batch]:
        """Submit what the budget admits, in as few batches as may be."""
        if not self.submits:
            return
        interface = self.calls.interface
        most = min(filter(None, (interface.MAX_REQUESTS, self._options.max_requests, self._cap)))
        room = min(interface.MAX_BYTES, self._options.max_bytes or interface.MAX_BYTES)
        while self._pending and not self._is_full(0):
            with self._new_file() as file:
                chunk = BatchInput(interface, file)
                yield from self._fill(chunk, most, room)
                if not chunk.requests:
                    break
                self._submit(chunk)

    def _fill(self, chunk: BatchInput, most: int, room: int) -> Iterator[Batch]:
        """Take the requests of one batch; what none can hold has failed."""
        while self._pending and not self._is_full(len(chunk.requests)):
            line = line_of(self._pending[0], self.client, self.calls.interface)
            if len(line.text) > room:
                why = f"the request has {len(line.text):,} bytes; a batch has at most {room:,}"
                yield [(self._pending.popleft(), Failure(why))]
                continue
            fits = chunk.takes(line, most, room)
            if not (fits and self.gate.admit(line.prepared, in_batch=True)):
                break
            self._pending.popleft()
            chunk.add(line)

    def _is_full(self, more: int) -> bool:
        """Whether the provider's queue takes no more, as far as it has said."""
        under_way = sum(batch.record.requests for batch in self._open)
        return self._room is not None and under_way > 0 and under_way + more >= self._room

    def _submit(self, chunk: BatchInput) -> None:
        """Make a batch durable, and submit it.

        Raises:
            UserError: The server refuses it; it is given up.
        """
        account, tries = self._billing.account(self.gate.budget), self._tries
        begun, prepared = datetime.now(UTC), [request for request, _ in chunk.requests]
        record = BatchRecord(chunk.tag, self.client.base_url, begun, account, len(prepared))
        requests = [
            BatchRequest(p.key, p.payload, sent, tries.get(p.key, 0)) for p, sent in chunk.requests
        ]
        self.journal.batches.begin(record, requests, self.gate.reserved(prepared))
        batch = OpenBatch(record, {request.key for request in prepared})
        self._open.append(batch)
        content = chunk.close()
        by_file = self.calls.interface.TAKES_FILES
        self._create(batch, self._upload(batch, content, chunk.path) if by_file else content)

    def _upload(self, batch: OpenBatch, content: IO[bytes], path: str) -> dict[str, Any]:
        """Upload the requests of a batch; what creates it out of the file.

        Raises:
            UserError: The server does not take the file. Nothing is created, so it is given up.
        """
        tag, window = batch.record.tag, self._options.completion_window
        try:
            file = self.calls.upload(tag, content)
        except NoAnswerError as error:
            self._give_up(batch)
            raise not_uploaded(batch.record, self.client, str(error)) from None
        except UserError:
            self._give_up(batch)
            raise
        self.journal.batches.note_file(tag, file)
        batch.record = replace(batch.record, file=file)
        return self.calls.interface.submission(tag, file, path, window)

    def _create(self, batch: OpenBatch, content: dict[str, Any] | IO[bytes]) -> None:
        """Create a batch on the server.

        An error of the journal leaves it as it is: whether it was created, a search will show.

        Raises:
            UserError: The server refuses it; it is given up.
        """
        try:
            state = self.calls.submit(content)
        except NoAnswerError as error:  # it may have been created
            self._last_error, batch.missed = str(error), datetime.now(UTC)
            return
        except UserError:
            self._give_up(batch)
            raise
        batch.confirm(self.journal, state.id)

    def _give_up(self, batch: OpenBatch) -> None:
        """Forget a batch of which nothing more will come: what it has left is asked again."""
        self.journal.batches.end(batch.record.tag)
        self._open.remove(batch)
        left = [self._requests[key] for key in self._requests if key in batch.keys]
        for request in left:
            self.gate.reconcile(request)
        self._pending.extend(left)
        batch.keys = set()

    # Asking how far they are

    def _asked(self, batch: OpenBatch) -> BatchState | None:
        """What the server says of a batch; None where it does not say, or has none.

        Raises:
            UserError: It refuses, or does not know a batch any more that it had.
        """
        try:
            if batch.record.id is None:
                return self._searched(batch)
            state = self.calls.state(batch.record.id)
        except NoAnswerError as error:
            self._last_error = str(error)
            return None
        except UnknownBatchError:
            if batch.note_unknown(self.journal, GRACE):
                raise unknown(batch.record, self.client) from None
            self._last_error = f"it does not know batch {batch.record.name}"
            return None
        counts = {"answered": state.answered, "failed": state.failed}
        status = batch.record.status if state.ended and batch.lacks_results else state.status
        batch.note(self.journal, **counts, status=status)
        self._last_error = ""
        self._report()
        return state

    def _report(self) -> None:
        answered = sum(one.record.answered + one.record.failed for one in self._awaited)
        done = self.known + self._progress + answered
        self.ctx.progress(done, self.known + len(self._requests))

    def _searched(self, batch: OpenBatch) -> BatchState | None:
        """A batch on the server whose creation was not answered; None for none, or none yet.

        One that surely is not there is given up.
        """
        interface, record = self.calls.interface, batch.record
        if interface.TAKES_FILES and record.file is None:
            self._give_up(batch)
            return None
        known = {one.id for one in self.journal.batches.open()}
        state, is_decided = search(self.calls, record, known, self._download)
        if state is not None:
            batch.confirm(self.journal, state.id)
            return state
        if is_decided and batch.is_lost(GRACE, self.model.limits):
            self._give_up(batch)
        return None

    @contextmanager
    def _download(self, path: str) -> Iterator[IO[bytes]]:
        """Results as they came, in a file without a name: an answer may repeat a key."""
        with self._new_file() as file:
            self.calls.download(path, file)
            yield file

    def _new_file(self) -> IO[bytes]:
        """A file without a name, on the disk of the store."""
        self.ctx.work.mkdir(parents=True, exist_ok=True)
        return TemporaryFile(dir=self.ctx.work)

    # Results

    def _take_in(self, batch: OpenBatch, state: BatchState) -> Iterator[Batch]:
        """Make the results of a batch that has ended durable, and give it up.

        Raises:
            UserError: It shows that all further requests would fail.
        """
        record = batch.record
        outcome = Outcome(
            *(self.client, self.journal, self.history, self._requests, self._billing.price),
        )
        try:
            if state.refused:
                results = outcome.refused(record, state)
            else:
                results = outcome.of_files(record, self.calls.interface, state, self._download)
            for items in results:
                yield from self._delivered(batch, items)
        except NoAnswerError as error:
            self._last_error = str(error)  # what is durable stays, the rest is read again
            return
        except UnknownBatchError:
            if batch.note_unknown(self.journal, GRACE, RESULTS):
                raise unknown(record, self.client, "the results of batch") from None
            self._last_error = f"it does not know the results of batch {record.name}"
            return
        for note in outcome.notes:
            note_once(f"batch {record.name}: {note}")
        self._note_queue(batch, outcome)
        self._tries |= outcome.tries
        self._give_up(batch)
        if outcome.fatal is not None:
            raise outcome.fatal

    def _note_queue(self, batch: OpenBatch, outcome: Outcome) -> None:
        """Submit no more at once than a provider's queue takes; less than now, if need be."""
        if outcome.queue_is_full:
            self._queue_was_full = True
            others = [one.record.requests for one in self._open if one is not batch]
            self._room = sum(others)
            if not others:
                self._cap = max(1, batch.record.requests // 2)

    def _delivered(self, batch: OpenBatch, items: Batch) -> Iterator[Batch]:
        """Have results made durable, and what is billed for them, before the next ones are read."""
        self.gate.batch, self.gate.billing = batch.record.tag, self._billing
        for request, result in items:
            if isinstance(result, Discarded):
                self.gate.reconcile(request, result.billed)
        yield items
        self.gate.batch, self.gate.billing = None, self._single
        ended = {request.key for request, result in items if not isinstance(result, Discarded)}
        self._progress += len(ended)
        batch.keys -= ended

    # Waiting

    def _wait(self, seconds: float) -> None:
        """Wait before the next questions.

        Raises:
            UserError: There is no more time (exit code 6).
        """
        wait = self._options.wait
        if wait is not True:
            left = self.waiting_since + float(wait) - time.monotonic()
            if left <= 0:
                records = [batch.record for batch in self._awaited]
                raise waiting(records, self.client, self._last_error)
            seconds = min(seconds, left)
        if self._last_error:
            note_once(f"{self.client.base_url}: waiting, without an answer: {self._last_error}")
        time.sleep(seconds)
