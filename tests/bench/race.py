"""A race: each contestant in its own process, on the same files, in turn, several times.

Ours and theirs take turns, so that what else the machine does falls on both. The
result is the median of the runs. What takes long runs once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.bench import ROOT
from tests.bench.peers import PEERS_PYTHON, QUIET, prepare

LONG = 20.0
"""Seconds above which a contestant runs only once."""


@dataclass(frozen=True)
class Contestant:
    """A function that prepares the work (`tests.bench.worker`), and its options.

    peer: it runs where the peers are installed. A peer may be missing or fail on a
    machine: it is then left out, with the reason. Our own code and baselines may not.
    """

    name: str
    target: str
    options: Mapping[str, Any] = field(default_factory=dict)
    peer: bool = False


@dataclass(frozen=True)
class Result:
    """Median seconds, the least, the largest peak in GiB, and the outcome of the last run.

    skipped: why there is none.
    """

    seconds: float = float("nan")
    least: float = float("nan")
    gib: float = float("nan")
    outcome: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    skipped: str | None = None


class PeerFailed(Exception):
    """What a peer's process said last."""


class Runner:
    """The process of one contestant."""

    def __init__(self, contestant: Contestant, files: Path, scratch: Path) -> None:
        self.contestant = contestant
        self.outcome = scratch / f"{contestant.name}.npz".replace("/", "-").replace(" ", "-")
        self.log = self.outcome.with_suffix(".log")
        if contestant.peer:
            prepare()
        python = PEERS_PYTHON if contestant.peer else Path(sys.executable)
        if not python.exists():
            raise PeerFailed("the peers are not installed")
        self.process = subprocess.Popen(
            [str(python), "-m", "tests.bench.worker", contestant.target, str(files),
             json.dumps(dict(contestant.options)), str(self.outcome)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
            env={**os.environ, **(QUIET if contestant.peer else {})},
        )  # fmt: skip
        self._answer()

    def run(self) -> dict[str, float]:
        """Run once: seconds, cpu and gib."""
        assert self.process.stdin is not None
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return self._answer()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The outcome of the last run."""
        with np.load(self.outcome) as held:
            return {name: held[name] for name in held.files}

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            reported = [text for text in self.log.read_text().splitlines() if text.strip()]
            reported = reported if not self.contestant.peer else reported[-1:]
            raise PeerFailed("\n".join(reported[-30:]) or f"ended with {self.process.returncode}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def race(files: Path, contestants: Sequence[Contestant], rounds: int = 3) -> dict[str, Result]:
    """Let all run in turn, and give each one's result by its name."""
    times: dict[str, list[dict[str, float]]] = {c.name: [] for c in contestants}
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runners: dict[str, Runner] = {}
        for _ in range(rounds):
            for contestant in contestants:
                name = contestant.name
                long = any(one["seconds"] > LONG for one in times[name])
                if name in skipped or long:
                    continue
                try:
                    if name not in runners:
                        runners[name] = Runner(contestant, files, scratch)
                        stack.callback(runners[name].close)
                    times[name].append(runners[name].run())
                except PeerFailed as failure:
                    if not contestant.peer:
                        raise
                    skipped[name] = str(failure)
                    print(f"    {name}: skipped, {failure}", flush=True)
                    continue
                last = times[name][-1]
                reported = (
                    f"{last['seconds']:.2f} s, CPU {last['cpu']:.2f} s, {last['gib']:.2f} GiB"
                )
                print(f"    {name}: {reported}", flush=True)
        return {
            name: Result(skipped=skipped[name])
            if name in skipped
            else Result(
                median(one["seconds"] for one in runs),
                min(one["seconds"] for one in runs),
                max(one["gib"] for one in runs),
                runners[name].arrays(),
            )
            for name, runs in times.items()
        }
