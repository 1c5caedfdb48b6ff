"""The results of a provider's batch: read line by line, whatever order and state they are in."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import IO, Final

from pipeline.errors import UserError
from pipeline.models.budget import Price
from pipeline.models.engines.batch_lines import as_sent
from pipeline.models.http.batches import (
    NO_STATE,
    BatchInterface,
    BatchProblem,
    BatchResult,
    BatchState,
    key_in,
)
from pipeline.models.http.batches.calls import NoAnswerError
from pipeline.models.http.client import HttpClient
from pipeline.models.http.quota import quota_error, quota_is_used_up
from pipeline.models.http.reading import MAX_SPELLINGS, ErrorAnswer
from pipeline.models.http.refusals import History, error_message
from pipeline.models.http.scheduler import Retry
from pipeline.models.journal.batches import BatchRecord, BatchRequest
from pipeline.models.journal.charges import billed_tokens
from pipeline.models.journal.journal import Journal, JournalEntry
from pipeline.models.journal.requests import Batch, Discarded, Failure, PreparedRequest
from pipeline.models.journal.spending import Charge
from pipeline.models.journal.usage import TokenUsage

ATTEMPTS: Final = 3
"""Batches in which a request is asked before its row fails: each may take a day."""
RESPELLED: Final = 1000
"""What a try counts in `BatchRequest.tries` that was refused for its spelling."""
DOWNLOADS: Final = 3
"""How often results are read that are fewer than the provider counts."""
PAUSE: Final = 5.0
"""Seconds between these."""
COMMIT_SIZE: Final = 1000
"""Results that are made durable together."""
SUCCESS: Final = range(200, 300)
REFUSED: Final = 400
FULL_QUEUE: Final = frozenset({"token_limit_exceeded", "request_limit_exceeded"})
"""Codes with which a provider refuses a batch that it may take later, or in parts."""
Download = Callable[[str], AbstractContextManager[IO[bytes]]]
"""Results by their path, in a file that is gone once they are read."""
Unasked = tuple[BatchRequest, str | TokenUsage]
"""A request that is not asked now, with its answer; with what is billed where that is none."""


@dataclass
class ResultReader:
    """Reads files of results.

    Args:
        interface: Their form.
        tag: The batch's.

    Attributes:
        garbage: Lines that are no results.
        foreign: Results of other requests than ours.
        again: Results of requests that had one before.
        seen: The keys of all requests that have one.
    """

    interface: BatchInterface
    tag: str
    garbage: int = 0
    foreign: int = 0
    again: int = 0
    seen: set[str] = field(default_factory=set)

    def results(self, lines: Iterable[bytes]) -> Iterator[tuple[str, BatchResult]]:
        """The results in a file that are of this batch, with the keys of their requests.

        Args:
            lines: The file's.
        """
        for line in lines:
            if not line.strip():
                continue
            try:
                result = self.interface.result(json.loads(line))
            except (*NO_STATE, RecursionError):
                self.garbage += 1
                continue
            key = key_in(result.custom_id, self.tag)
            if key is None:
                self.foreign += 1
            else:
                self.again += key in self.seen
                self.seen.add(key)
                yield key, result


@dataclass
class Outcome:
    """What became of the requests of one batch.

    Args:
        client: What the server's answers mean.
        journal: The journal.
        history: How the server answered the stage so far.
        asked: The requests that are asked now, by key.
        price: That of batches; None for none.

    Attributes:
        notes: What is odd about the results, for people.
        tries: How often requests were in a batch that are to be asked again.
        fatal: Why all further requests would fail.
        queue_is_full: Whether the provider takes less at once.
    """

    client: HttpClient
    journal: Journal
    history: History
    asked: Mapping[str, PreparedRequest]
    price: Price | None
    notes: list[str] = field(default_factory=list)
    tries: dict[str, int] = field(default_factory=dict)
    fatal: UserError | None = None
    queue_is_full: bool = False

    def of_files(
        self,
        record: BatchRecord,
        interface: BatchInterface,
        state: BatchState,
        download: Download,
    ) -> Iterator[Batch]:
        """The results of a batch that was run, in parts that are to be made durable.

        What is not among them is to be asked again. Files may be cut, or another's page: where
        fewer results come than the provider counts they are read anew, and believed only if they
        hold some, and the same ones each time.

        Args:
            record: The batch.
            interface: The form of its results.
            state: What the provider says of it.
            download: Downloads results to a file.

        Raises:
            NoAnswerError: They are not all there.
            UnknownBatchError: They are not there, or not any more.
        """
        left = {request.key: request for request in self.journal.batches.requests(record.tag)}
        expected = min(state.answered + state.failed, record.requests)
        came, known = set[str](), list[int]()
        while not known or (len(came) < expected and len(known) < DOWNLOADS):
            time.sleep(PAUSE if known else 0.0)
            reader = ResultReader(interface, record.tag)
            for path in state.results:
                with download(path) as file:
                    yield from self._of_file(record, reader, file, left)
            came |= reader.seen
            known.append(len(came))
        if len(came) < expected and not (came and known[0] == known[-1]):
            raise NoAnswerError(f"only {len(came):,} of the {expected:,} results came")
        if items := [item for request in left.values() for item in self._without_result(request)]:
            yield items
        self._note(reader, len(left), record.requests)

    def _of_file(
        self,
        record: BatchRecord,
        reader: ResultReader,
        lines: Iterable[bytes],
        left: dict[str, BatchRequest],
    ) -> Iterator[Batch]:
        """The results in one file of those requests that are left; they are not left any more."""
        items: Batch = []
        others: list[Unasked] = []
        for key, result in reader.results(lines):
            request = left.pop(key, None)
            if request is None:
                continue  # it came before, or was durable before this process began
            self._add(request, result, items, others)
            if len(items) + len(others) >= COMMIT_SIZE:
                yield from self._parts(record, items, others)
                items, others = [], []
        yield from self._parts(record, items, others)

    def _note(self, reader: ResultReader, missing: int, of: int) -> None:
        counts = {
            "of its results are no results": reader.garbage,
            "of its results are of other requests": reader.foreign,
            "of its requests have more than one result: the first one counts": reader.again,
            f"of its {of:,} requests have no result: they are asked again": missing,
        }
        self.notes += [f"{number:,} {text}" for text, number in counts.items() if number]

    def _parts(self, record: BatchRecord, items: Batch, others: list[Unasked]) -> Iterator[Batch]:
        """Hand results over; those of requests that are not asked now are made durable here."""
        if items:
            yield items
        if not others:
            return
        texts = {request.key: text for request, text in others if isinstance(text, str)}
        useless = [billed for _, billed in others if isinstance(billed, TokenUsage)]
        stored = self.journal.batches.requests(record.tag, list(texts))
        entries = [JournalEntry(r.key, r.request, texts[r.key], r.sent) for r in stored]
        keys = [request.key for request, _ in others]
        self.journal.put_many(entries, self._charge(record, entries, useless), (record.tag, keys))

    def _charge(
        self, record: BatchRecord, entries: list[JournalEntry], useless: list[TokenUsage]
    ) -> Charge:
        """What results are billed that nobody asks for now; it is charged to who submitted them."""
        billed = [billed_tokens(entry.response, 0) for entry in entries] + useless
        tokens = sum(billed, TokenUsage())
        money = self.price.money(tokens) if self.price else 0.0
        return Charge(record.account, len(billed), tokens, money)

    # One request

    def _add(
        self,
        request: BatchRequest,
        result: BatchResult,
        items: Batch,
        others: list[Unasked],
    ) -> None:
        """Add the result of a request where it belongs.

        Args:
            request: The request.
            result: Its result.
            items: Results of requests that are asked now.
            others: What came for the others, as far as it is billed.
        """
        prepared = self.asked.get(request.key)
        if prepared is not None:
            items += self._ended(replace(prepared, sent=request.sent), request, result)
        elif result.code in SUCCESS:
            text = self.client.reader.storable(result.content)
            came = text if isinstance(text, str) else text.billed
            if came is not None:
                others.append((request, came))

    def _ended(
        self, prepared: PreparedRequest, request: BatchRequest, result: BatchResult
    ) -> Batch:
        """The result of a request; nothing where it is asked again and nobody bills it."""
        try:
            outcome = self._read(prepared, result)
        except UserError as error:
            self.fatal = self.fatal or error
            return []
        if outcome is None:  # it is spelled anew
            if request.tries >= MAX_SPELLINGS * RESPELLED:
                why = self.client.reader.one_line(error_message(result.content))
                return [(prepared, Failure(f"the server refuses each of its spellings: {why}"))]
            self.tries[prepared.key] = request.tries + RESPELLED
            return []
        if not isinstance(outcome, Retry):
            return [(prepared, outcome)]
        return self._again(prepared, request.tries + 1, outcome)

    def _again(self, prepared: PreparedRequest, tries: int, why: Retry) -> Batch:
        if tries % RESPELLED >= ATTEMPTS:
            return [(prepared, Failure(f"{why.why} (batch {tries % RESPELLED})", why.billed))]
        self.tries[prepared.key] = tries
        return [(prepared, Discarded(why.billed))] if why.billed else []

    def _read(self, prepared: PreparedRequest, result: BatchResult) -> str | Retry | Failure | None:
        if result.code is None:
            return Retry(self.client.reader.one_line(result.content))
        if result.code in SUCCESS:
            return self.client.reader.answer(
                result.content, as_sent(prepared, self.client), self.history
            )
        error = ErrorAnswer(result.code, result.content)
        return self.client.reader.refused(error, as_sent(prepared, self.client), self.history)

    def _without_result(self, request: BatchRequest) -> Batch:
        """What becomes of a request of which a batch that has ended says nothing."""
        prepared = self.asked.get(request.key)
        if prepared is None:
            return []
        return self._again(prepared, request.tries + 1, Retry("the batch has no result for it"))

    # Batches that were not run

    def refused(self, record: BatchRecord, state: BatchState) -> Iterator[Batch]:
        """The failures of a batch that a provider did not take: of the lines that it names.

        Args:
            record: The batch.
            state: What the provider says of it.
        """
        requests = self.journal.batches.requests(record.tag)
        self.tries |= {request.key: request.tries for request in requests}
        self.queue_is_full = any(problem.code in FULL_QUEUE for problem in state.problems)
        if self.queue_is_full:
            return
        lines = range(1, len(requests) + 1)
        whole = [problem for problem in state.problems if problem.line not in lines]
        if whole or not state.problems:
            self.fatal = self._refusal(record, whole)
            return
        items: Batch = []
        for problem in {problem.line: problem for problem in reversed(state.problems)}.values():
            request = requests[(problem.line or 1) - 1]
            items += self._refused_line(request, problem)
        yield items

    def _refused_line(self, request: BatchRequest, problem: BatchProblem) -> Batch:
        result = BatchResult(
            "", REFUSED, {"error": {"code": problem.code, "message": problem.message}}
        )
        prepared = self.asked.get(request.key)
        if prepared is None:
            return []
        return self._ended(replace(prepared, sent=request.sent), request, result)

    def _refusal(self, record: BatchRecord, problems: list[BatchProblem]) -> UserError:
        reader, server = self.client.reader, self.client.base_url
        texts = [reader.one_line(problem.message) for problem in problems]
        why = "; ".join(dict.fromkeys(texts)) or "it does not say why"
        for code, message, _ in problems:
            if quota_is_used_up(REFUSED, {"error": {"code": code, "message": message}}):
                return quota_error(server, why)
        return UserError(
            f"the server refused batch {record.name}",
            where=server,
            why=why,
            hint="fix what it names, or leave `batch` out of the model to send requests one by one",
        )
