"""The journal: durable at once, complete batches only, never blocked by a dead writer."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.models.journal.journal import NAME, SELECT, Journal, JournalEntry
from tests.support.journals import max_answers

ROOT = Path(__file__).parents[3]
BATCH = 20

WRITER = f"""
import sys
from pathlib import Path
from pipeline.models.journal.journal import Journal, JournalEntry
from tests.pipeline.models.test_journal import key

journal, writer = Journal(Path(sys.argv[1])), sys.argv[2]
for batch in range(10_000):
    journal.put_many(
        JournalEntry(key(f"{{writer}}-{{batch}}-{{i}}"), "x" * 500, {{"text": "y" * 500}})
        for i in range({BATCH})
    )
    print(batch, flush=True)
"""


def key(name: str) -> str:
    return blake2b(name.encode(), digest_size=16).hexdigest()


def entries(count: int, name: str = "k") -> list[JournalEntry]:
    return [
        JournalEntry(
            key(f"{name}{i}"), json.dumps({"prompt": f"p{i}"}), {"text": f"t{i} \u00e9\n\0"}
        )
        for i in range(count)
    ]


def writer(folder: Path, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), name]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_what_was_put_is_found_by_another_journal_object(tmp_path: Path) -> None:
    Journal(tmp_path).put_many(entries(3))
    other = Journal(tmp_path)
    keys = [key(name) for name in ("k2", "k0", "unknown", "k2")]
    assert other.get_many(keys) == {a.key: a.response for a in entries(3)[::2]}
    assert other.count() == 3
    assert other.get_many([]) == {}


def test_the_first_answer_stays_and_the_second_is_counted(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert max_answers(journal) == 0
    a, b = key("a"), key("b")
    journal.put_many(
        [JournalEntry(a, "{}", {"text": "first"}), JournalEntry(b, "{}", {"text": "b"})]
    )
    assert max_answers(journal) == 1
    journal.put_many([JournalEntry(a, "{}", {"text": "second"})])
    assert journal.get_many([a]) == {a: {"text": "first"}}
    assert (journal.count(), max_answers(journal)) == (2, 2)


def test_a_batch_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(TypeError):
        journal.put_many([*entries(5), JournalEntry(key("bad"), "{}", {"text": object()})])
    with pytest.raises(sqlite3.Error):
        journal.put_many([*entries(5), JournalEntry(key("bad"), None, {})])  # type: ignore[arg-type]
    assert journal.count() == 0
    journal.put_many(entries(2))
    assert journal.count() == 2


def test_a_killed_writer_loses_nothing_and_blocks_nobody(tmp_path: Path) -> None:
    """SIGKILL at random instants: every batch that was acknowledged is complete."""
    rng = random.Random(0)
    acknowledged: dict[str, int] = {}
    for name in ("a", "b", "c", "d", "e"):
        process = writer(tmp_path, name)
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        lines = (first + process.stdout.read()).splitlines()
        process.wait()
        acknowledged[name] = len(lines)

        began = time.monotonic()
        journal = Journal(tmp_path)
        journal.put_many(entries(1, name=f"after-{name}-"))
        assert time.monotonic() - began < 10
        for other, batches in acknowledged.items():
            keys = [key(f"{other}-{b}-{i}") for b in range(batches + 2) for i in range(BATCH)]
            stored = journal.get_many(keys)
            assert set(keys[: batches * BATCH]) <= set(stored)
            assert len(stored) % BATCH == 0
        journal.close()
    assert sum(acknowledged.values()) > 10


def test_a_second_object_leaves_the_locks_of_the_first(tmp_path: Path) -> None:
    """Else another process takes itself for the last one, and removes the log that is in use."""
    journal = Journal(tmp_path)
    journal.put_many([JournalEntry(key("first"), "first", {"text": "one"})])
    Journal(tmp_path).close()
    other = "import sys; from pathlib import Path; from pipeline.models.journal.journal import *"
    other += "; Journal(Path(sys.argv[1])).close()"
    subprocess.run([sys.executable, "-c", other, str(tmp_path)], check=True)
    assert (tmp_path / f"{NAME}-wal").exists()
    journal.put_many([JournalEntry(key("second"), "second", {"text": "two"})])
    journal.close()
    again = Journal(tmp_path)
    assert set(again.get_many([key("first"), key("second")])) == {key("first"), key("second")}
    assert not again.integrity()


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    """From the very start: none of them begins with a file."""
    processes = [writer(tmp_path, str(n)) for n in range(3)]
    for process in processes:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(30)]
        assert lines[-1] == "29\n"
    for process in processes:
        process.kill()
        process.communicate()
    journal = Journal(tmp_path)
    assert journal.count() >= 3 * 30 * BATCH
    assert max_answers(journal) == 1


def test_ten_thousand_responses_a_second(tmp_path: Path) -> None:
    """Measured at 40,000; the bound leaves room for a busy machine."""
    rows = [JournalEntry(f"{i:032x}", "p" * 1000, {"text": "t" * 700}) for i in range(20_000)]
    journal = Journal(tmp_path)
    began = time.perf_counter()
    for start in range(0, len(rows), 1000):
        journal.put_many(rows[start : start + 1000])
    assert len(rows) / (time.perf_counter() - began) > 10_000


def test_a_look_up_goes_by_the_index(tmp_path: Path) -> None:
    """Its cost does not grow with the journal; `make bench` measures it up to 10^6 entries."""
    journal = Journal(tmp_path)
    plan = journal._connection.execute(f"EXPLAIN QUERY PLAN {SELECT}", [b""]).fetchall()
    steps = [step[3] for step in plan]
    assert any("SEARCH responses USING COVERING INDEX" in step for step in steps), steps
    assert any("SEARCH responses USING INTEGER PRIMARY KEY" in step for step in steps), steps
    assert not any("SCAN responses" in step for step in steps), steps


def test_many_keys_are_looked_up_at_once(tmp_path: Path) -> None:
    """As many as a large stage has, answered or not, in any order and some twice."""
    journal = Journal(tmp_path)
    journal.put_many(entries(30_000))
    names = [f"k{i}" for i in range(60_000)]
    random.Random(1).shuffle(names)
    responses = journal.get_many([key(name) for name in [*names, *names[:100]]])
    assert responses == {a.key: a.response for a in entries(30_000)}


def test_an_import_counts_only_its_own_entries(tmp_path: Path) -> None:
    """Another writer in between does not change the number of new entries."""
    journal, other = Journal(tmp_path), Journal(tmp_path)
    journal.put_many(entries(2))

    def imported() -> Iterator[JournalEntry]:
        yield from entries(5)
        other.put_many(entries(7, name="other"))

    assert journal.add_missing(imported()) == 3
    assert (journal.count(), max_answers(journal)) == (12, 1)


def test_a_file_that_is_not_a_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"not a database, certainly not one" * 100)
    with pytest.raises(UserError, match="journal") as error:
        Journal(tmp_path)
    assert error.value.where == str(tmp_path / "journal.sqlite")


def test_a_journal_of_another_format_is_refused(tmp_path: Path) -> None:
    """Its keys would not be found, and every answer would be paid again."""
    journal = Journal(tmp_path)
    journal.put_many(entries(3))
    journal.close()
    with sqlite3.connect(tmp_path / NAME) as file:
        file.execute("PRAGMA user_version = 1")
    with pytest.raises(UserError, match="its format must be 2, got 1") as error:
        Journal(tmp_path)
    assert str(tmp_path / NAME) in str(error.value)


def flip(folder: Path, name: str) -> None:
    """One letter of a stored response is another one; it still is JSON."""
    with sqlite3.connect(folder / NAME) as file:
        file.execute(
            "UPDATE responses SET response = replace(response, 't', 'u') WHERE key = ?",
            [bytes.fromhex(key(name))],
        )
    file.close()


def test_a_damaged_answer_counts_as_none_until_another_comes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Journal(tmp_path).put_many(entries(3))
    flip(tmp_path, "k1")
    journal, keys = Journal(tmp_path), [key(f"k{i}") for i in range(3)]
    assert set(journal.get_many(keys)) == {keys[0], keys[2]}
    assert f"the answer {keys[1]} is not as written" in capsys.readouterr().err
    assert [entry.sound for entry in journal.entries()].count(False) == 1
    journal.put_many([JournalEntry(keys[1], "{}", {"text": "again"})])
    assert Journal(tmp_path).get_many(keys)[keys[1]] == {"text": "again"}
    assert journal.count() == 3
    assert all(entry.sound for entry in journal.entries())


def test_an_import_restores_damaged_answers_and_no_others(tmp_path: Path) -> None:
    Journal(tmp_path).put_many(entries(3))
    flip(tmp_path, "k0")
    copy = [entry._replace(response={"text": f"copy {i}"}) for i, entry in enumerate(entries(3))]
    journal = Journal(tmp_path)
    assert journal.add_missing(copy) == 1
    stored = journal.get_many([entry.key for entry in copy])
    assert stored == {entry.key: entry.response for entry in [copy[0], *entries(3)[1:]]}


def test_a_journal_of_an_earlier_version_is_read_and_goes_on(tmp_path: Path) -> None:
    """Its answers have no checksum; new ones do."""
    Journal(tmp_path).put_many(entries(2))
    with sqlite3.connect(tmp_path / NAME) as file:
        file.execute("ALTER TABLE responses DROP COLUMN checksum")
    file.close()
    journal = Journal(tmp_path)
    keys = [key(f"k{i}") for i in range(3)]
    assert set(journal.get_many(keys)) == {a.key for a in entries(2)}
    journal.put_many(entries(3))
    assert journal.get_many(keys) == {entry.key: entry.response for entry in entries(3)}
    assert {entry.key: entry.sound for entry in journal.entries()} == {
        keys[0]: None, keys[1]: None, keys[2]: True,
    }  # fmt: skip
