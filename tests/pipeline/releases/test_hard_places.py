"""What every place must bear: publishers at once, full disks, what cannot be written to."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Exit
from pipeline.releases import create as creating
from pipeline.remote import waiting
from pipeline.store.releases import read_release, versions
from pipeline.store.store import Store
from tests.support.cli import call
from tests.support.places import KINDS, Place, place, publishing
from tests.support.publishing import conversations, pool

TEXTS = [f"Name {word} and say why it is one." for word in ("a river", "a hill", "an ore")]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_FIRST_DELAY", 0.01)


@pytest.fixture(params=KINDS)
def there(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    with place(request.param, tmp_path, monkeypatch) as at:
        yield at


def recipe(folder: Path, texts: list[str] = TEXTS, **publish: Any) -> list[str]:
    """Run and release a recipe; the words of a call that name it and its store."""
    stages: dict[str, Any] = {
        "rows": pool(conversations(folder / "pool.jsonl", texts)),
        "shards": {"uses": "export.parquet", "needs": "rows"},
    }
    if "takedown" in publish:
        options = {"path": publish["takedown"]}
        stages["clean"] = {"uses": "select.takedown", "needs": "rows", "with": options}
        stages["shards"]["needs"] = "clean"
    path = folder / "chat.yaml"
    section = {"gate": {"certificate": False}, **publish}
    path.write_text(json.dumps({"name": "chat", "stages": stages, "publish": section}))
    words = [str(path), "--store", str(folder / "store")]
    for verb in ("run", "release"):
        done = call(verb, *words)
        assert done.code == Exit.DONE, done.stderr
    return words


def at_once(at: Place, *calls: list[str]) -> list[int]:
    """The exit codes of publications that run at the same time; none may be a bug."""
    running = [publishing(at, *words, "--json") for words in calls]
    ended = [process.communicate(timeout=120) for process in running]
    for process, (_, error) in zip(running, ended, strict=True):
        assert process.returncode in (Exit.DONE, Exit.MISTAKE, Exit.TRY_AGAIN), error
        assert "Traceback" not in error, error
    return [process.returncode for process in running]


@pytest.mark.proof
def test_two_publishers_of_one_release_at_once_publish_it_once(
    there: Place, tmp_path: Path
) -> None:
    words = recipe(tmp_path)
    codes = at_once(there, words, words, words)
    assert Exit.DONE in codes
    assert Exit.MISTAKE not in codes
    state = there.state()
    assert call("publish", *words, "--to", there.to).code == Exit.DONE
    assert there.state() == state
    if "titles" in state:
        assert [title for title in state["titles"] if title != "initial commit"] == ["chat 1.0"]
    there.lose()
    assert call("publish", *words, "--to", there.to).code == Exit.DONE
    assert there.state() == state, "as one publisher alone leaves it"


@pytest.mark.proof
def test_two_publishers_of_two_versions_at_once_leave_the_newer_one_current(
    there: Place, tmp_path: Path
) -> None:
    words = recipe(tmp_path)
    recipe(tmp_path, [*TEXTS, "Name a star and say why it is one."])
    store = words[1:]
    old, new = ["chat@1.0", *store], ["chat@1.1", *store]
    at_once(there, old, new, new, old)
    # The older one may have come too late; the newer one is there after another call at the latest.
    assert call("publish", *new, "--to", there.to).code == Exit.DONE
    done = call("publish", *old, "--to", there.to)
    assert done.code in (Exit.DONE, Exit.MISTAKE), done.stderr
    assert json.loads(call("publish", *new, "--to", there.to, "--json").stdout)["latest"] is None
    state = there.state()
    if "latest" in state:
        assert state["latest"] == state["1.1"]


def test_taken_down_rows_are_erased_from_every_place(there: Place, tmp_path: Path) -> None:
    to = ["--to", there.to]
    words = recipe(tmp_path)
    assert call("publish", *words, *to).code == Exit.DONE
    (tmp_path / "takedown.txt").write_text("pool#0\n")
    recipe(tmp_path, takedown=str(tmp_path / "takedown.txt"))
    current = call("publish", *words, *to, "--takedown")
    assert (current.code, "must not be the current one" in current.stderr) == (2, True)
    assert call("publish", *words, *to).code == Exit.DONE
    for erased in (["1.0"], []):  # the second call has nothing left to do
        done = call("publish", *words, *to, "--takedown", "--json")
        assert (done.code, json.loads(done.stdout)["erased"]) == (Exit.DONE, erased), done.stderr
    state = there.state()
    assert not [name for name in state if name.split("/")[0].endswith("1.0")]
    done = call("publish", *words, *to, "--json")
    assert (done.code, json.loads(done.stdout)["rows"]) == (Exit.DONE, len(TEXTS) - 1)


# Disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def fill(disk: Path, left: int = 0) -> None:
    """Leave so many bytes free."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "ballast").write_bytes(b"x" * (free - left))


def without_release(disk: Path, folder: Path) -> list[str]:
    """A recipe that has run in a store on a disk; the words that name both."""
    words = recipe(folder)
    (folder / "store").rename(folder / "kept")
    subprocess.run(["cp", "-r", str(folder / "kept"), str(disk / "store")], check=True)
    subprocess.run(["rm", "-r", str(disk / "store/releases")], check=True)
    return [words[0], "--store", str(disk / "store")]


@pytest.mark.parametrize("verb", ["release", "refresh"])
@pytest.mark.parametrize("left", [0, 4096])
def test_a_full_disk_leaves_no_half_release(
    disk: Path, tmp_path: Path, verb: str, left: int
) -> None:
    words = without_release(disk, tmp_path)
    fill(disk, left)
    done = call(verb, *words)
    assert (done.code, "Traceback" in done.stderr) == (Exit.MISTAKE, False), done.stderr
    assert "No space left on device" in done.stderr + done.stdout
    assert "free some space" in done.stderr + done.stdout
    assert versions(Store(disk / "store"), "chat") == []
    (disk / "ballast").unlink()
    done = call(verb, *words)
    assert done.code == Exit.DONE, done.stderr
    assert call("verify", "chat@1.0", *words[1:]).code == Exit.DONE


def test_a_disk_that_fills_while_it_is_published_to_has_no_half_version(
    disk: Path, tmp_path: Path
) -> None:
    words = [*recipe(tmp_path), "--to", f"file://{disk}/out"]
    fill(disk, 8192)
    done = call("publish", *words)
    assert (done.code, "Traceback" in done.stderr) == (Exit.MISTAKE, False), done.stderr
    assert "No space left on device" in done.stderr
    assert not (disk / "out/1.0").exists()
    (disk / "ballast").unlink()
    assert call("publish", *words).code == Exit.DONE
    assert sorted(p.name for p in (disk / "out").iterdir() if p.name[0] != ".") == [
        "1.0", "latest", "latest.json",
    ]  # fmt: skip


READERS = (
    ("releases",), ("status", "{}"), ("verify", "chat"), ("diff", "chat", "{}"),
    ("cat", "chat", "rows"), ("sample", "{}", "rows"), ("publish", "chat", "--dry-run"),
    ("report", "chat", "-o", "{page}"), ("plan", "{}"), ("explain", "{}", "{id}"),
)  # fmt: skip


def test_what_only_reads_works_on_a_read_only_store(disk: Path, tmp_path: Path) -> None:
    named = without_release(disk, tmp_path)
    assert call("release", *named).code == Exit.DONE
    rows = call("cat", named[0], "rows", *named[1:]).stdout
    first = json.loads(rows.splitlines()[0])["id"]
    remount(disk, "ro")
    values = {"{}": named[0], "{page}": str(tmp_path / "page.html"), "{id}": first}
    for words in READERS:
        done = call(*[values.get(word, word) for word in words], *named[1:])
        assert done.code == Exit.DONE, (words, done.stderr)
    for verb in ("release", "refresh", "gc", "run"):
        done = call(verb, *([] if verb == "gc" else named[:1]), *named[1:])
        assert (done.code, "Traceback" in done.stderr) == (Exit.MISTAKE, False), done.stderr
        assert "cannot be written to" in done.stderr
        assert "--store DIR" in done.stderr


def test_a_folder_that_cannot_be_written_is_named(disk: Path, tmp_path: Path) -> None:
    words = [*recipe(tmp_path), "--to", f"file://{disk}/out"]
    remount(disk, "ro")
    done = call("publish", *words)
    assert (done.code, "Traceback" in done.stderr) == (Exit.MISTAKE, False), done.stderr
    assert "the folder cannot be written to" in done.stderr
    page = call("report", *words[:3], "-o", f"{disk}/page.html")
    assert (page.code, "cannot be written" in page.stderr) == (Exit.MISTAKE, True)


# Clocks


def test_a_clock_that_goes_backwards_changes_no_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = datetime.now(UTC)

    class Backwards(datetime):
        days = 0

        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            cls.days += 1
            return start.astimezone(tz) - timedelta(days=30 * cls.days)

    monkeypatch.setattr(creating, "datetime", Backwards)
    for number in range(3):
        words = recipe(tmp_path, TEXTS + [f"Name star {i} and say why." for i in range(number)])
    listed = json.loads(call("releases", "--json", *words[1:]).stdout)
    assert [entry["release"] for entry in listed] == ["chat@1.0", "chat@1.1", "chat@1.2"]
    assert listed[0]["created"] > listed[2]["created"]
    store = Store(tmp_path / "store")
    assert read_release(store, "chat")["version"] == "1.2"
    assert read_release(store, "chat")["parent"] == "1.1"
    assert "nothing new" in call("refresh", *words).stdout
    removed = json.loads(call("gc", "--json", *words[1:]).stdout)["kinds"]
    assert all(kind["removed"] == 0 for kind in removed.values())
    assert "1.1" in call("diff", "chat", *words[1:]).stdout
