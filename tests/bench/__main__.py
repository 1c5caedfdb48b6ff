"""`make bench`: how fast and how large, on this machine, with equality checked first.

    python -m tests.bench [SECTION ...]

All sections by default; the names are in SECTIONS. One that fails (an outcome that is
not equal, an error) is told at the end, and the exit status is then 1. A demand that is
not met is shown, no more: the machine may be busy.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module, metadata
from pathlib import Path

from tests.bench.data import DEMANDED_ROWS, Data
from tests.bench.table import Line, render

SECTIONS = {
    "command_line": True,
    "checking": True,
    "likelihoods": False,
    "one_shot": False,
    "novelty": True,
    "duplicates": True,
    "ngrams": True,
    "diverse": True,
    "clustering": True,
    "semantic": True,
    "paraphrases": False,
    "curation": True,
    "clusters": False,
    "combining": False,
    "constraining": False,
    "scale": True,
    "loading": True,
    "tool_rows": False,
    "journal": False,
    "serving": False,
}
"""The modules of this package that have a `measure`; whether its demands are about the pool."""


def main(chosen: list[str]) -> int:
    """Measure, print one table, and tell what failed."""
    unknown = [name for name in chosen if name not in SECTIONS]
    if unknown:
        print(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
        return 2
    lines: list[Line] = []
    failed: list[str] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        data = Data(Path(folder))
        for name in chosen or SECTIONS:
            print(f"{name} ({time.perf_counter() - began:.0f} s)", flush=True)
            try:
                lines += _applicable(name, data, _measured(name)(data))
            except Exception:
                traceback.print_exc()
                failed.append(name)
        print(f"\n{_machine()}\n{data.pool.name}, {time.perf_counter() - began:.0f} s in all\n")
    print(render(lines))
    missed = sum(line.met is False for line in lines)
    print(f"\n{missed} of {sum(line.met is not None for line in lines)} demands are not met")
    if failed:
        print(f"FAILED: {', '.join(failed)} (see above)")
    return 1 if failed else 0


def _measured(name: str) -> Callable[[Data], list[Line]]:
    measure: Callable[..., list[Line]] = import_module(f"tests.bench.{name}").measure
    if name in ("journal", "serving", "tool_rows"):
        return lambda data: measure(data.folder)
    return measure


def _applicable(name: str, data: Data, lines: list[Line]) -> list[Line]:
    """Demands are about the whole pool; on the shipped sample they do not apply."""
    if not SECTIONS[name] or data.complete:
        return lines
    return [
        replace(line, demanded=f"n/a below {DEMANDED_ROWS:,} rows" * bool(line.demanded), met=None)
        for line in lines
    ]


def _machine() -> str:
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    names = ("numpy", "polars", "pyarrow", "torch", "transformers", "sentence-transformers")
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}{load}\n"
        + ", ".join(f"{name} {metadata.version(name)}" for name in names)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
