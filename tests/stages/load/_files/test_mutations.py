"""Damaged files: every row that is not damaged is kept, every damaged one is kept or failed."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.mutations import FORMATS, SECONDS, damaged, problems

ADDRESS_SPACE = 1 << 30
"""Beyond what the libraries take before a file is read."""


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_lose_no_row(name: str) -> None:
    assert list(problems(name, 20, seed=1)) == []


@pytest.mark.proof
@pytest.mark.parametrize("name", FORMATS)
def test_many_damaged_files_in_a_limited_address_space(name: str) -> None:
    # Where the next row of an array begins is the only guess among the formats.
    count = 400 if FORMATS[name].is_exact else -(-3000 // len(FORMATS))
    command = [sys.executable, "-m", "tests.support.mutations", name, str(count), "2"]
    done = subprocess.run(
        [*command, str(ADDRESS_SPACE)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


@pytest.mark.proof_long
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_by_command_line(name: str, tmp_path: Path) -> None:
    format, recipe = FORMATS[name], tmp_path / "r.yaml"
    (tmp_path / "files").mkdir()
    command = [sys.executable, "-m", "pipeline", "run", str(recipe), "--store"]
    for number in range(100):
        data, *_ = damaged(format, random.Random(f"{name} 3 {number}"))
        options = json.dumps(format.put(tmp_path / "files", data))
        recipe.write_text(
            f"name: r\nstages:\n  pool: {{uses: load.{format.stage.__name__}, with: {options}}}\n"
        )
        began = _processor_seconds()
        done = subprocess.run(
            [*command, str(tmp_path / "store")], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode in (0, 2, 4), (number, done.stderr)
        assert "Traceback" not in done.stderr
        assert _processor_seconds() - began < SECONDS


def _processor_seconds() -> float:
    """Of the processes that have ended: whatever else the machine does, it does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
