"""The command line as a user runs it: a curation end to end, nothing to do, the help text."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

from tests.bench import ROOT
from tests.bench.data import Data
from tests.bench.table import Line, bound

_MEASURED = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Run a command; its peak memory in KiB follows.

A process that begins has the peak of the one that started it as its own (Linux keeps it over
exec), so that a small one must start what is measured.
"""


def timed(*arguments: str) -> tuple[float, float]:
    """Wall seconds and peak memory in GiB of one call of the command line, in its own process."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-S", "-c", _MEASURED, sys.executable, "-m", "pipeline", *arguments],
        cwd=ROOT,
        # Where Python may not keep its bytecode, it compiles all our modules at every start
        # (0.1 s). Installed packages came with theirs, and with people ours is kept as well.
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return time.perf_counter() - began, int(done.stdout.splitlines()[-1]) / 2**20


def measure(data: Data) -> list[Line]:
    """curate.yaml on the pool, again with nothing to do, and `--help`."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = ("run", "tests/bench/curate.yaml", "--store", folder)
        settings = (*recipe, "--set", f"stages.pool.with.path={data.pool}")
        whole, memory = timed(*settings)
        again = min(timed(*settings)[0] for _ in range(3))
    helping = min(timed("--help")[0] for _ in range(5))
    return [
        bound(f"curate {len(data.rows):,} rows, seven stages", whole, "s", 30),
        bound("  its peak memory", memory, "GiB", 1.5),
        bound("the same with nothing to do", again, "s", 2),
        bound("python -m pipeline --help", helping, "s", 0.5),
    ]
