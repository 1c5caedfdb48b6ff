"""`load.records` against the version before records had tool calls, alternating, on one pool.

That version is taken out of the repository's history, whose ids are the same but for inputs
that are placeholders.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from statistics import median

from tests.bench.data import Data
from tests.bench.table import Line, bound
from tests.conftest import ROOT

BEFORE = "7cc047c"
"""The last commit whose records are role and content alone."""

ROUNDS = 5
RATE, MEMORY = 0.95, 1.10
_RUN = """
import json, sys, tempfile, time
from pathlib import Path
import polars as pl
sys.path.insert(0, ".")
from pipeline.context import Context
from pipeline.execution.peak_memory import peak_memory
from stages.load.records import records

def seconds():
    began = time.process_time()
    frame = records(Context.scratch(Path(tempfile.mkdtemp(dir=sys.argv[2]))), path=(sys.argv[1],),
                    source="pool", license="see source")
    if not isinstance(frame, pl.DataFrame):  # in parts; the version before gave one frame
        frame = pl.concat(frame)
    assert frame["error"].is_null().all()
    return time.process_time() - began

seconds()
best = min(seconds() for _ in range(3))
print(json.dumps([best, peak_memory()]))
"""


def measure(data: Data) -> list[Line]:
    """Rows per second and peak memory, as parts of those of the version before."""
    before = data.folder / "before"
    archive = subprocess.run(
        ["git", "archive", BEFORE, "pipeline", "stages", "schemas"],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(before, filter="data")
    rounds = [(_run(before, data), _run(ROOT, data)) for _ in range(ROUNDS)]
    time_before, time_now = (median(each[at][0] for each in rounds) for at in (0, 1))
    memory_before, memory_now = (median(each[at][1] for each in rounds) for at in (0, 1))
    what = "load.records: time of a row, as part of that of before calls and reasoning"
    return [
        bound(what, time_now / time_before, "", 1 / RATE),
        bound("  its peak memory, likewise", memory_now / memory_before, "", MEMORY),
    ]


def _run(folder: Path, data: Data) -> tuple[float, int]:
    """Seconds of the processor and peak memory in bytes of one process."""
    command = [sys.executable, "-c", _RUN, str(data.pool), str(data.folder)]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    seconds, memory = json.loads(done.stdout)
    return seconds, memory
