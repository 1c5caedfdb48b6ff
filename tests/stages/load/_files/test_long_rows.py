"""A row of nearly 64 MiB is loaded in a gigabyte, whatever its format and its characters are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.long_rows import FORMATS, PACKINGS, TEXTS, written

WIDEST = "1-byte, and one of 4 first"
"""The text that takes most memory for its bytes."""

CASES = [
    *((format, WIDEST, "plain") for format in FORMATS),
    *(("json lines", text, "plain") for text in TEXTS if text != WIDEST),
    *(("json array", text, "plain") for text in ("4-byte", "escapes of 4-byte")),
    *(("csv", WIDEST, packing) for packing in PACKINGS if packing != "plain"),
]


@pytest.mark.proof
@pytest.mark.parametrize(("format", "text", "packing"), CASES)
def test_a_row_near_the_limit_is_loaded_in_a_gigabyte(
    format: str, text: str, packing: str, tmp_path: Path
) -> None:
    path = written(format, text, packing, tmp_path)
    command = [sys.executable, "-m", "tests.support.long_rows", format, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    peak, rows, errors = done.stdout.split(maxsplit=2)
    assert errors.strip() == "[]"
    assert int(rows) == (1 if format == "document" else 3)
    assert int(peak) < 1 << 30
