"""The bundled data are what `data/README.md` says, and nothing else."""

from __future__ import annotations

import hashlib
import re
import stat
from pathlib import Path

import pytest

from tests.conftest import ROOT

DATA = ROOT / "data"
README = (DATA / "README.md").read_text("utf-8")
DIGESTS = dict(re.findall(r"^([0-9a-f]{64})  (\S+)$", README, re.MULTILINE))
LISTED = {name: digest for digest, name in DIGESTS.items()}


def bundled() -> list[Path]:
    files = (path for path in DATA.rglob("*") if path.is_file())
    return [path for path in files if path.relative_to(DATA).parts[0] != "artifacts"]


def test_every_file_is_listed() -> None:
    names = {str(path.relative_to(DATA)) for path in bundled()}
    assert names - {"README.md"} == set(LISTED)


@pytest.mark.parametrize("name", sorted(LISTED))
def test_digest(name: str) -> None:
    assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == LISTED[name]


def test_every_file_has_origin_and_licence() -> None:
    for name in LISTED:
        if name.startswith("models/"):
            assert f"`{'/'.join(name.split('/')[:2])}/`" in README
            continue
        [row] = [line for line in README.splitlines() if line.startswith(f"| `{name}` ")]
        assert " @ " in row or "written for this project" in row
        assert re.search(r"Apache-2\.0|MIT|CC BY 4\.0", row)


def test_small_and_readable() -> None:
    assert sum(path.stat().st_size for path in bundled()) < 42_000_000
    assert not any(path.stat().st_mode & stat.S_IXUSR for path in bundled())


def test_nothing_here_is_larger_than_a_forge_accepts() -> None:
    assert max(path.stat().st_size for path in bundled()) < 20_000_000
