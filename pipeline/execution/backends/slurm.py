"""Chunks under Slurm: job arrays over files in the store's folder, which all machines share.

A chunk is a file that is named by its content, its result another one beside it. The driver
submits what has neither a result nor a job, and takes results in as they come; ranks write
result files and nothing else. So a driver that was killed finds, when it is started again, what
was computed meanwhile, and submits only what is missing. A job that ended without a result was
out of memory or time, or its machine died: the pool tries its chunk in halves.

    python -m pipeline.execution.backends.slurm FOLDER     one rank of an array
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import polars as pl

from pipeline import ROOT
from pipeline.errors import UserError
from pipeline.execution.backends import ChunkLost, ChunkResult, RemoteStage, StageCall

OPTIONS: Final = "GRISTMILL_SBATCH"
"""Environment variable with options for sbatch, such as `--partition=cpu --mem=8G --time=60`."""

_GRACE: Final = 3.0
"""Seconds for which a file may take to be seen here after its job has ended."""


@dataclass(frozen=True)
class Job:
    """A chunk that waits for its result.

    Attributes:
        folder: Where its call's files are.
        name: Digest of the chunk, the stem of its files.
    """

    folder: Path
    name: str

    @property
    def result(self) -> Path:
        """The file of its result."""
        return self.folder / f"{self.name}.out"


@dataclass
class SlurmJobs:
    """A Slurm cluster that shares the store's folder.

    Args:
        jobs: The most jobs of an array that run at once.

    Attributes:
        asks_models: The journal is on a local disk, and the driver may be killed at any time.
        slots: How many chunks may be under way.
        loads_embedders: Every job loads its own.
        chunk_seconds: How long a chunk should take: a job has to be scheduled first.
    """

    jobs: int
    slots: int = field(init=False)
    asks_models: bool = field(default=False, init=False)
    loads_embedders: bool = field(default=True, init=False)
    chunk_seconds: float = field(default=60.0, init=False)
    _queued: list[Job] = field(default_factory=list, init=False)
    _arrays: dict[str, list[Job]] = field(default_factory=dict, init=False)
    _ended: dict[Job, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.slots = max(self.jobs, 1) * 4
        _command("squeue", "--version")

    def begun(self, call: StageCall) -> int | None:
        """The rows of a chunk where a driver before this one began the call; None otherwise.

        Args:
            call: The call.
        """
        size = _folder(call) / "size"
        return int(size.read_text()) if size.exists() else None

    def prepare(self, call: StageCall, size: int) -> Path:
        """The stage and its other inputs, in a file of the store's folder.

        Args:
            call: The call.
            size: The rows of a chunk.
        """
        folder = _folder(call)
        folder.mkdir(parents=True, exist_ok=True)
        edges = {edge.name: call.edges[edge.name] for edge in call.stage.edges[1:]}
        _write(folder / "call.pickle", pickle.dumps((RemoteStage.of(call), edges)))
        _write(folder / "size", str(size).encode())
        return folder

    def submit(self, prepared: Path, chunk: pl.DataFrame) -> Job:
        """Queue a chunk; a handle of it.

        Args:
            prepared: What `prepare` gave.
            chunk: The rows.
        """
        # The folder is that of the step's fingerprint, in which an id stands for its row.
        ids = "\n".join(chunk["id"]).encode()
        job = Job(prepared, hashlib.sha256(ids).hexdigest()[:24])
        if not job.result.exists() and not self._is_running(job):
            _write(prepared / f"{job.name}.in", pickle.dumps(chunk))
            self._queued.append(job)
        return job

    def _is_running(self, job: Job) -> bool:
        """Whether an array of a driver before this one computes it."""
        for record in sorted(job.folder.glob("array-*.json")):
            array, names = record.stem.removeprefix("array-"), json.loads(record.read_text())
            if job.name in names and array not in self._arrays and _running(array):
                self._arrays[array] = [Job(job.folder, name) for name in names]
        return any(job in jobs for jobs in self._arrays.values())

    def wait(self, handles: Iterable[Job], seconds: float) -> list[Job]:
        """The chunks that have a result, or no job any more.

        Args:
            handles: Those to wait for.
            seconds: How long.
        """
        self._submit_queued()
        handles = list(handles)
        done = [job for job in handles if job.result.exists()]
        if not done:
            time.sleep(seconds)
            self._look_at_arrays()
            now = time.monotonic()
            over = [job for job, ended in self._ended.items() if now - ended > _GRACE]
            done = [job for job in handles if job.result.exists() or job in over]
        return done

    def _submit_queued(self) -> None:
        """Submit what is queued, as one array."""
        if not self._queued:
            return
        folder, names = self._queued[0].folder, [job.name for job in self._queued]
        listed = folder / f"{names[0]}.array"
        _write(listed, json.dumps(names).encode())
        rank = [sys.executable, "-m", "pipeline.execution.backends.slurm", str(listed)]
        array = _command(
            "sbatch",
            "--parsable",
            f"--array=0-{len(names) - 1}%{self.jobs}",
            f"--chdir={ROOT}",
            f"--output={folder}/%A-%a.log",
            "--job-name=gristmill",
            *shlex.split(os.environ.get(OPTIONS, "")),
            f"--wrap=exec {shlex.join(rank)}",
        ).split(";")[0]
        _write(folder / f"array-{array}.json", json.dumps(names).encode())
        self._arrays[array], self._queued = self._queued, []
        for job in self._arrays[array]:
            self._ended.pop(job, None)

    def _look_at_arrays(self) -> None:
        """Note when an array is over: what has no result then gets none."""
        for array in [array for array in self._arrays if not _running(array)]:
            for job in self._arrays.pop(array):
                self._ended.setdefault(job, time.monotonic())

    def result(self, handle: Job) -> ChunkResult:
        """The result of a chunk that is done.

        Args:
            handle: Its handle.

        Raises:
            ChunkLost: It has no result and no job.
            UserError: What the stage raised.
        """
        if not handle.result.exists():
            raise ChunkLost(f"its job ended without a result; see the logs in {handle.folder}")
        outcome = pickle.loads(handle.result.read_bytes())
        if isinstance(outcome, BaseException):
            handle.result.unlink()  # the next run computes it again
            raise outcome
        result: ChunkResult = outcome
        return result

    def close(self) -> None:
        """Cancel what is not finished: a run that ends early does not want it any more."""
        for array in self._arrays:
            if _running(array):
                _command("scancel", array)
        self._arrays.clear()


def _folder(call: StageCall) -> Path:
    """Where the files of a call are: in the work folder of its step, by the stage's code."""
    return call.folder / f"slurm-{RemoteStage.of(call).code[:16]}"


def _command(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"Slurm's {words[0]} does not run", why=str(error),
                        hint="run where sbatch, squeue and scancel work") from None  # fmt: skip
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["without a word"])[0]
        raise UserError(f"Slurm's {words[0]} failed", where=shlex.join(words), why=why)
    return done.stdout.strip()


def _running(array: str) -> bool:
    """Whether an array has jobs that wait or run; Slurm forgets one some time after its end."""
    try:
        return bool(_command("squeue", "--noheader", f"--jobs={array}"))
    except UserError as error:
        if "Invalid job id" in str(error.why):
            return False
        raise


def _write(path: Path, content: bytes) -> None:
    """Write a file that others see whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)


def main(listed: Path, number: int) -> None:
    """Compute one chunk of an array, and write its result.

    Args:
        listed: The file with the names of the array's chunks.
        number: Which of them.
    """
    folder, name = listed.parent, json.loads(listed.read_text())[number]
    target = folder / f"{name}.out"
    if target.exists():
        return
    stage, edges = pickle.loads((folder / "call.pickle").read_bytes())
    rows = pickle.loads((folder / f"{name}.in").read_bytes())
    outcome: ChunkResult | Exception
    with tempfile.TemporaryDirectory(prefix="gristmill-") as scratch:
        try:
            outcome = stage.run(edges, Path(scratch), rows)
        except Exception as error:
            outcome = error
    _write(target, pickle.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(os.environ["SLURM_ARRAY_TASK_ID"]))
