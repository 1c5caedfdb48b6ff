"""One contestant in a process of its own: it prepares, then runs each time it is told to.

    python -m tests.bench.worker MODULE:FUNCTION FOLDER OPTIONS

The function imports what it needs, reads its rows from files in the folder and
returns a function without arguments: the work that is measured. That one returns
arrays by name, the outcome. Reading, imports and compilation before are not counted.

The parent writes a line for each run; the answer is a line of JSON: seconds, CPU
seconds with those of child processes that ended, and the peak of this process's own
memory in that run. Whatever a library prints goes to
the log, never between the answers.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from pipeline.execution.peak_memory import peak_memory, reset_peak


def main() -> None:
    """Serve until the parent closes the line."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    target, folder, options, outcome = sys.argv[1:]
    module, function = target.split(":")
    run = getattr(importlib.import_module(module), function)(Path(folder), **json.loads(options))
    answers.write(json.dumps({"ready": True}) + "\n")
    for _ in sys.stdin:
        gc.collect()
        reset_peak()
        began, before = time.perf_counter(), sum(os.times()[:4])
        arrays = run()
        reported = {
            "seconds": time.perf_counter() - began,
            "cpu": sum(os.times()[:4]) - before,
            "gib": peak_memory() / 2**30,
        }
        np.savez(outcome, **arrays)
        answers.write(json.dumps(reported) + "\n")


if __name__ == "__main__":
    main()
