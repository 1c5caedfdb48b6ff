"""A file's digest follows its content, whatever the cache remembers."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from pipeline.store import file_hashes as file_hashes_module
from pipeline.store.file_hashes import FileDigests, file_digest

PAUSE = 0.15
"""After so many seconds a file has not just changed."""


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_digest_is_the_sha256_of_the_content(tmp_path: Path) -> None:
    content = os.urandom(3 * file_hashes_module.BLOCK + 17)
    (tmp_path / "a").write_bytes(content)
    assert file_digest(tmp_path / "a") == sha(content)
    assert FileDigests(tmp_path / "store/files.json").get(tmp_path / "a") == sha(content)


def test_an_unchanged_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"one")
    time.sleep(PAUSE)
    FileDigests(tmp_path / "files.json").get(tmp_path / "a")
    monkeypatch.setattr(file_hashes_module, "file_digest", lambda path: pytest.fail("read again"))
    assert FileDigests(tmp_path / "files.json").get(tmp_path / "a") == sha(b"one")


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("pause", [0, PAUSE])
def test_a_change_of_equal_size_and_mtime_is_seen(
    tmp_path: Path, in_place: bool, pause: float
) -> None:
    path, cache = tmp_path / "a", FileDigests(tmp_path / "files.json")
    path.write_bytes(b"one")
    before = path.stat()
    time.sleep(pause)
    assert cache.get(path) == sha(b"one")
    if in_place:
        path.write_bytes(b"two")
    else:
        (tmp_path / "b").write_bytes(b"two")
        os.replace(tmp_path / "b", path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.get(path) == sha(b"two")


def test_a_file_that_has_just_changed_is_not_cached(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    FileDigests(tmp_path / "files.json").get(path)
    assert not (tmp_path / "files.json").exists()


def test_no_path_is_stored_and_two_caches_merge(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).write_text(name)
    time.sleep(PAUSE)
    one, other = FileDigests(tmp_path / "files.json"), FileDigests(tmp_path / "files.json")
    one.get(tmp_path / "first")
    other.get(tmp_path / "second")
    text = (tmp_path / "files.json").read_text()
    assert sha(b"first") in text
    assert sha(b"second") in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("broken", ["", "[1]", "{", '{"a": 1}'])
def test_a_broken_cache_counts_as_empty(tmp_path: Path, broken: str) -> None:
    (tmp_path / "files.json").write_text(broken)
    (tmp_path / "a").write_bytes(b"one")
    assert FileDigests(tmp_path / "files.json").get(tmp_path / "a") == sha(b"one")


def test_a_folder_a_pipe_and_a_device_have_no_digest(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="regular") as caught:
            FileDigests(tmp_path / "files.json").get(path)
        assert caught.value.filename == str(path)
