"""What it costs that nothing damaged is served: seconds of checks in a run with nothing to do.

`curate.yaml` runs on the pool; then it runs again with a timer around every check: of the
manifests, of the exported files, and of the columns that are read. The first run again reads
the files whole, later ones see that they did not change. Last, all rows of the store are read
with their checks and without, which no run does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from pipeline.cli.main import main as command_line
from pipeline.store import artifact, manifests
from pipeline.store.artifact import Artifact, open_artifact
from tests.bench import ROOT
from tests.bench.command_line import timed
from tests.bench.data import Data
from tests.bench.table import Line, bound


def measure(data: Data) -> list[Line]:
    """The share of checks in a run with nothing to do, and the speed of checked reading."""
    with tempfile.TemporaryDirectory() as folder:
        settings = (
            "run", "tests/bench/curate.yaml", "--store", folder,
            "--set", f"stages.pool.with.path={data.pool}",
        )  # fmt: skip
        timed(*settings)
        first, *later = [_again(settings) for _ in range(6)]
        best = min(later, key=lambda seconds: seconds[1] / seconds[0])
        plain, checked = _read_all(Path(folder))
    work = f"checks in a run of {len(data.rows):,} rows with nothing to do"
    return [
        bound(f"{work}, the first", 100 * first[1] / first[0], "%", 5, _shown(first)),
        bound("  the ones after it", 100 * best[1] / best[0], "%", 5, _shown(best)),
        Line("reading all rows of the store, checked", f"{checked:.2f} s", "unchecked",
             f"{plain:.2f} s", f"{checked / plain:.2f} x"),
    ]  # fmt: skip


def _shown(seconds: tuple[float, float]) -> str:
    return f"{1e3 * seconds[1]:.1f} ms of {seconds[0]:.2f} s"


def _again(settings: tuple[str, ...]) -> tuple[float, float]:
    """Wall seconds of a call of the command line, and those within checks."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.checking", *settings],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return time.perf_counter() - began, json.loads(done.stdout.splitlines()[-1])


def _read_all(store: Path) -> tuple[float, float]:
    """Seconds to read all rows of all artifacts, without checks and with them."""
    times = []
    for checks in (False, True, False, True):
        began = time.perf_counter()
        for folder in sorted((store / "artifacts").iterdir()):
            opened = open_artifact(folder)
            assert opened
            if checks:
                artifact._VERIFIED.clear()
            else:  # as if every file was verified before
                names = {f"{part}.parquet" for part in ("kept", "dropped", "failed")}
                for path in (folder / n for n in opened.manifest["files"] if n in names):
                    state = artifact._state(path)
                    assert state
                    artifact._VERIFIED[path] = state, None
            for part in ("kept", "dropped", "failed"):
                opened.read(part)
        times.append(time.perf_counter() - began)
    return min(times[::2]), min(times[1::2])


def _timed_checks() -> Callable[[], float]:
    """Put a timer around every check; the seconds so far."""
    spent, depth = [0.0], [0]

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            began, depth[0] = time.perf_counter(), depth[0] + 1
            try:
                return function(*args, **kwargs)
            finally:
                depth[0] -= 1
                spent[0] += (time.perf_counter() - began) * (depth[0] == 0)

        return wrapper

    for name in ("_verify", "verified_files"):
        setattr(Artifact, name, around(getattr(Artifact, name)))
    name = "without_checksum"  # of the manifests
    setattr(manifests, name, around(getattr(manifests, name)))
    return lambda: spent[0]


if __name__ == "__main__":
    seconds = _timed_checks()
    try:
        command_line()
    finally:
        print("\n" + json.dumps(seconds()))
