"""Operations on a complete journal: statistics, verification, export and import.

An export is JSON Lines: one object with `key`, `request` and `response` for each
request (and `sent`, where a server got another spelling of it), in the order of the keys; the
suffix `.gz` compresses it. Only its owner may read it. It contains no path,
no address of a server and no key to one. With the engine `replay` it is enough to
rebuild the data set on another machine.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import uuid
import zlib
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

from pipeline.errors import UserError
from pipeline.models.journal.database import PRIVATE
from pipeline.models.journal.journal import (
    Journal,
    JournalEntry,
    StoredEntry,
    damaged_entry,
    parse_stored,
)
from pipeline.models.journal.responses import well_formed
from pipeline.store.files import DamagedFile, check_kind, warn
from pipeline.store.hashing import encode

IMPORT_BATCH: Final = 5000
"""Entries that an import commits together."""
MAX_LINE: Final = 64 * 2**20
"""Characters of the longest entry that an import reads."""
MAX_WHY: Final = 200
MAX_SHOWN: Final = 5
"""Problems that the error of `verify` shows."""
SHOWN_DIGITS: Final = 12
"""Digits of a digest that are enough for people."""
DIGEST: Final = re.compile(r"[0-9a-f]{32,}")
COUNTS: Final = ("requests", "prompt_tokens", "completion_tokens", "cut", "again")


def stats(journal: Journal) -> dict[str, Any]:
    """Count the requests and tokens of each model.

    Returns:
        `requests` and `bytes` of the journal, and under `models` for each model its `name`
        for people and its identity (`model`) with `requests`, `prompt_tokens`,
        `completion_tokens` (None where the answers do not say), `cut` (answers that reached
        max_tokens) and `again` (answers beyond the first).
    """
    models: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(COUNTS, 0))
    for entry in _sound_entries(journal):
        response = parse_stored(journal.path, entry.key, entry.response)
        counts = models[json.dumps(_model(journal, entry), sort_keys=True)]
        counts["requests"] += 1
        counts["prompt_tokens"] += response.prompt_tokens
        counts["completion_tokens"] += response.completion_tokens
        counts["cut"] += response.finish_reason == "length"
        counts["again"] += entry.answers - 1
    names = journal.names()
    identities = [(json.loads(text), counts) for text, counts in sorted(models.items())]
    rows = [
        {"name": model_name(model, names), "model": model, **_known(counts)}
        for model, counts in identities
    ]
    return {"requests": journal.count(), "bytes": journal.path.stat().st_size, "models": rows}


def _known(counts: dict[str, int]) -> dict[str, int | None]:
    """The counts; None for tokens of which no answer says anything: a prompt has at least one."""
    tokens = ("prompt_tokens", "completion_tokens")
    unknown = not any(counts[name] for name in tokens)
    return {name: None if unknown and name in tokens else n for name, n in counts.items()}


def _sound_entries(journal: Journal) -> Iterator[StoredEntry]:
    """All entries.

    Raises:
        UserError: A response is not what was written.
    """
    for entry in journal.entries():
        if entry.sound is False:
            raise damaged_entry(journal.path, entry.key)
        yield entry


def _model(journal: Journal, entry: StoredEntry) -> dict[str, Any]:
    """The identity of the model that a stored request was sent to."""
    try:
        model = json.loads(entry.request)["model"]
    except (ValueError, LookupError, TypeError, RecursionError):
        model = None
    if not isinstance(model, dict):
        raise damaged_entry(journal.path, entry.key)
    return model


def stats_rows(statistics: dict[str, Any]) -> Iterable[list[str]]:
    """The rows of a table of `stats`: the model, then its counts in the order of COUNTS."""
    for row in statistics["models"]:
        cells = ["unknown" if row[name] is None else f"{row[name]:,}" for name in COUNTS]
        yield [row["name"], *cells]


def model_name(model: Any, names: Mapping[str, str]) -> str:
    """A model's name for people: of its weights, then whatever else its identity has.

    Args:
        model: Its identity.
        names: Names of local weights by digest, as the journal has them.

    Example:
        >>> model_name({"weights": {"digest": "0123456789abcdef"}, "dtype": "float32"}, {})
        'weights 0123456789ab, dtype float32'
    """
    parts = dict(model) if isinstance(model, dict) else {"model": model}
    weights = parts.pop("weights", None)
    if isinstance(weights, dict):
        digest, revision = weights.get("digest"), weights.get("revision")
        name = weights.get("id") or weights.get("served") or weights.get("name")
        if digest is not None:
            name = f"{names.get(digest, 'weights')} {digest[:SHOWN_DIGITS]}"
        parts = {"": f"{name} {revision[:SHOWN_DIGITS]}" if revision else name} | parts
    return ", ".join(f"{key} {_short(value)}".strip() for key, value in parts.items())


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:SHOWN_DIGITS] if DIGEST.fullmatch(text) else text


def export(journal: Journal, path: Path) -> int:
    """Write all entries to a file, which appears only once it is complete.

    Damaged entries are left out, each with a warning.

    A symbolic link is followed. A file that is there already is replaced only if it is an
    export, or empty.

    Returns:
        The number of entries.

    Raises:
        UserError: The file cannot be written, or is there and is no export.
    """
    _check_replaceable(path)
    count = 0
    path = Path(os.path.realpath(path))
    partial = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with _created(partial, path.suffix == ".gz") as file:
            for line in lines(journal):
                file.write(line)
                count += 1
        partial.replace(path)
    except OSError as error:
        raise UserError("the file cannot be written", where=str(path), why=str(error)) from None
    finally:
        partial.unlink(missing_ok=True)
    return count


def lines(journal: Journal, models: Container[str] | None = None) -> Iterator[str]:
    """The lines of an export; damaged entries are left out, each with a warning.

    Args:
        journal: The journal.
        models: The identities of models in canonical JSON; only requests to them. All without it.
    """
    for entry in journal.entries():
        if problem := _entry_problem(entry):
            damage = DamagedFile(journal.path, f"{entry.key}: {problem}")
            warn(damage, "the entry is left out")
        elif models is None or encode(_model(journal, entry)).decode() in models:
            # Parsed first: a server may spread its answer over several lines.
            response = json.dumps(json.loads(entry.response))
            sent = f',"sent":{entry.sent}' if entry.sent else ""
            yield f'{{"key":"{entry.key}","request":{entry.request},"response":{response}{sent}}}\n'


def _check_replaceable(path: Path) -> None:
    """Refuse what an export must not replace.

    Raises:
        UserError: The path is no regular file, or holds something else than an export.
    """
    hint = "name another file, such as journal.jsonl.gz"
    check_kind(path, "the file", folder=False, hint=hint)
    if not path.exists() or not path.stat().st_size:
        return
    try:
        next(_entries(path), None)
    except UserError as error:
        what = "the file exists and is not a journal export, so it is not replaced"
        raise UserError(what, where=str(path), why=error.what, hint=hint) from None


def import_entries(journal: Journal, path: Path) -> tuple[int, int]:
    """Add the entries of an export. Where both have an answer, the journal keeps its own.

    Returns:
        How many entries were new, and how many the journal already had.

    Raises:
        UserError: A line is not an entry, or its key is not that of its request. The
            entries before that line are added.
    """
    new = existing = 0
    entries = _entries(path)
    while True:
        batch: list[JournalEntry] = []
        try:
            batch.extend(islice(entries, IMPORT_BATCH))
        finally:
            added = journal.add_missing(batch)
        if not batch:
            return new, existing
        new, existing = new + added, existing + len(batch) - added


def _entries(path: Path) -> Iterator[JournalEntry]:
    check_kind(path, "an export", folder=False, hint="name the file that journal export wrote")
    try:
        with _opened(path, path.suffix == ".gz") as file:
            # A compressed file of zeros, too, is read in little memory.
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), ""), 1):
                if len(line) > MAX_LINE:
                    what = f"an entry must have at most {MAX_LINE:,} characters"
                    raise UserError(what, where=f"{path}:{number}")
                yield _entry(line, f"{path}:{number}")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UserError("the file cannot be read", where=str(path), why=str(error)) from None


def _entry(line: str, where: str) -> JournalEntry:
    try:
        raw = json.loads(line)
        key, response = raw["key"], raw["response"]
        request = encode(raw["request"]).decode("utf-8")
        model = raw["request"]["model"]
        sent = raw.get("sent")
        for name, value in (("model", model), ("sent", {} if sent is None else sent)):
            if not isinstance(value, dict):
                raise TypeError(f"its {name} must be a mapping, got {type(value).__name__}")
        spelling = None if sent is None else encode(sent).decode("utf-8")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        why = repr(error)[:MAX_WHY]
        raise UserError("not a journal entry", where=where, why=why) from None
    if problem := _problem(key, request.encode(), response):
        raise UserError(f"corrupt entry: {problem}", where=where)
    return JournalEntry(key, request, json.dumps(response), spelling)


def _problem(key: Any, request: bytes, response: Any) -> str | None:
    if key != blake2b(request, digest_size=16).hexdigest():
        return "key does not match the request"
    return None if well_formed(response) else "response cannot be read"


def verify(journal: Journal) -> int:
    """Check that every key is that of its request, and every response can be read.

    Returns:
        The number of entries.

    Raises:
        UserError: Some entries are corrupt; it names the first ones.
    """
    problems = journal.integrity()
    count = 0
    for entry in journal.entries():
        count += 1
        if problem := _entry_problem(entry):
            problems.append(f"{entry.key}: {problem}")
    if problems:
        raise UserError(
            f"the journal has {len(problems):,} problem{'s' * (len(problems) > 1)}",
            where=str(journal.path),
            why="; ".join(problems[:MAX_SHOWN]),
            hint="restore a copy of it (`journal import` puts its entries in the place of damaged "
            "ones), or export it, move it away and import the export",
        )
    return count


def _entry_problem(entry: StoredEntry) -> str | None:
    """What is wrong with a stored entry."""
    if entry.sound is False:
        return "response is not what was written"
    try:
        request = encode(json.loads(entry.request))
        if entry.sent is not None and not isinstance(json.loads(entry.sent), dict):
            return "what was sent is not what was written"
        return _problem(entry.key, request, json.loads(entry.response))
    except (ValueError, TypeError, RecursionError) as error:
        return str(error)[:MAX_WHY]


def _opened(path: Path, compressed: bool) -> IO[str]:
    return gzip.open(path, "rt", encoding="utf-8") if compressed else path.open(encoding="utf-8")


@contextmanager
def _created(path: Path, compressed: bool) -> Iterator[IO[str]]:
    """A new file for its owner alone, opened for writing."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE)
    with ExitStack() as stack:
        raw: IO[bytes] = stack.enter_context(os.fdopen(descriptor, "wb"))
        if compressed:
            # Without a name and a time stamp: equal journals give equal files.
            raw = stack.enter_context(gzip.GzipFile("", "wb", 6, raw, mtime=0))  # type: ignore[arg-type]
        yield stack.enter_context(io.TextIOWrapper(raw, encoding="utf-8"))
