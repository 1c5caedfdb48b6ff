"""Errors of the disk: what to do differs between the store and an input or an output."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.store.disk_errors import DISK_HINTS, explained


def hint_of(error: OSError, root: Path) -> str:
    problem = explained(error, root)
    assert problem is not None
    assert problem.where is not None
    return str(problem.hint)


def raised(act: Callable[[], object]) -> OSError:
    with pytest.raises(OSError, match="Errno") as caught:
        act()
    return caught.value


def test_what_stands_in_the_way_elsewhere_is_not_blamed_on_the_store(tmp_path: Path) -> None:
    """Real errors of real paths."""
    root = tmp_path / "store"
    for place, ours in ((tmp_path / "out", False), (root, True)):
        place.mkdir()
        (place / "file").touch()
        errors = {
            errno.ENOTDIR: raised((place / "file/page.html").read_text),
            errno.EISDIR: raised((place).read_text),
            errno.ENAMETOOLONG: raised((place / ("x" * 999)).read_text),
        }
        for number, error in errors.items():
            assert error.errno == number
            assert ("store" in hint_of(error, root)) == (ours and number != errno.ENAMETOOLONG)
            assert (hint_of(error, root) == DISK_HINTS[number]) == ours


def test_a_folder_named_as_an_output_may_hold_the_store(tmp_path: Path) -> None:
    assert "store" not in hint_of(raised(tmp_path.read_text), tmp_path / "store")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_place_that_takes_nothing_is_named_for_what_it_is(number: int, tmp_path: Path) -> None:
    """Also where a folder above the store cannot be made."""
    root = tmp_path / "data" / "store"
    for path, is_the_store in (
        (root / "artifacts", True),
        (root, True),
        (root.parent, True),
        (tmp_path / "out.jsonl", False),
    ):
        hint = hint_of(OSError(number, os.strerror(number), str(path)), root)
        assert ("--store DIR" in hint) == is_the_store


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_wherever_it_is(number: int, tmp_path: Path) -> None:
    for path in (tmp_path / "store/x", tmp_path / "out"):
        error = OSError(number, os.strerror(number), str(path))
        assert hint_of(error, tmp_path / "store") == DISK_HINTS[number]


def test_a_fault_of_another_kind_stays_what_it_is(tmp_path: Path) -> None:
    assert explained(OSError(errno.EPIPE, "Broken pipe"), tmp_path) is None
