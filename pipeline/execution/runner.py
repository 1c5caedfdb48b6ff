"""Executes a plan: each stage that is not there yet, in order, committed as it is done."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

import polars as pl

from pipeline.context import Context
from pipeline.errors import Exit, UserError
from pipeline.execution.code_hash import code_hash
from pipeline.execution.estimate import ActualUsage, Estimate, estimate_step, uses_language_model
from pipeline.execution.peak_memory import peak_memory, reset_peak
from pipeline.execution.plan import PlannedStep, StepOutputs, check, plan, plan_step, select_steps
from pipeline.execution.progress import Progress
from pipeline.execution.run_step import Outcome, execute, remembered
from pipeline.execution.workers import WorkerPool
from pipeline.models.budget import Budget, BudgetLimit, BudgetTracker
from pipeline.models.engines.registry import end_processes
from pipeline.recipe.recipe import Recipe
from pipeline.store.artifact import Artifact, file_entries
from pipeline.store.hashing import column_digest, digest
from pipeline.store.parquet import write_frame
from pipeline.store.store import Store
from schemas.manifest import FORMAT, Manifest

_ELSEWHERE: Final = "choose a folder that can be written to: --store DIR"
MENDS: Final = {
    errno.ENOSPC: "free some space, then run again: finished work is kept",
    errno.EDQUOT: "free some of your quota, then run again: finished work is kept",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), then run again",
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
}
"""What to do about trouble with the disk."""

LIBRARIES: Final = ("numpy", "polars", "pyarrow", "scikit-learn", "torch", "transformers", "trl")


@dataclass
class Runner:
    """One run of a recipe on a store.

    workers: processes for row-scope stages. accept_code: take changed code as
    equal in what it computes, and go on.
    expected, used: what stages were thought to ask of language models, and did, by name.
    """

    recipe: Recipe
    store: Store
    progress: Progress
    workers: int = 1
    accept_code: bool = False
    made: StepOutputs = field(default_factory=StepOutputs)
    expected: dict[str, Estimate] = field(default_factory=dict)
    used: dict[str, ActualUsage] = field(default_factory=dict)
    _account: BudgetTracker = field(init=False)

    def __post_init__(self) -> None:
        self._account = BudgetTracker("the budget of the run", self.recipe.budget)

    def run(self, targets: Sequence[str] = ()) -> Exit:
        """Run what is missing up to the targets. Raises UserError for what the user can mend."""
        with _disk_trouble(self.store.root), self.store.locked():
            planned = plan(self.recipe, self.store, targets)
            self._refuse_drift(planned)
            check(planned)
            pool = WorkerPool(self.workers)
            try:
                for place, step in enumerate(select_steps(self.recipe, targets), 1):
                    look = plan_step(self.recipe, step, self.store, self.made, self.store.files())
                    self.made.add(step, self._artifact(look, pool, place))
            finally:
                pool.close()
        failed = any(a.manifest["counts"]["failed"] for a in self.made.artifacts.values())
        return Exit.ROWS_FAILED if failed else Exit.DONE

    def _refuse_drift(self, planned: Sequence[PlannedStep]) -> None:
        drifted = [look for look in planned if look.drifted]
        if drifted and not self.accept_code:
            stages = ", ".join(sorted({look.step.stage.name for look in drifted}))
            raise UserError(
                f"the code of {stages} changed, but its version did not",
                why="what is stored under this version was made by other code",
                hint="raise version= in @stage, or --accept-code if it computes the same",
                code=Exit.DRIFT,
            )

    def _artifact(self, look: PlannedStep, pool: WorkerPool, place: int) -> Artifact:
        assert look.fingerprint is not None
        stage = look.step.stage
        untried = self.store.code(stage.name, stage.version) is None
        self.store.set_code(stage.name, stage.version, code_hash(stage))
        if look.state == "cached" and look.artifact:
            self.store.remember(self.recipe.name, look.step.name, look.fingerprint)
            return look.artifact
        self.progress.start(place, look.step.name, stage.name)
        staging = self.store.staging(look.fingerprint)
        try:
            artifact = self._made(look, staging, pool)
        except OSError:
            # Whoever took the lock has cleared away what this run had half written.
            self.store.ensure_owned()
            raise
        except Exception:
            work = self.store.work(look.fingerprint)
            if untried and not any(work.iterdir()) and not remembered(look, self.store):
                self.store.forget_code(stage.name, stage.version)
            raise
        finally:
            end_processes()
            shutil.rmtree(staging, ignore_errors=True)
        self.progress.finish(told(artifact.manifest))
        return artifact

    def _made(self, look: PlannedStep, staging: Path, pool: WorkerPool) -> Artifact:
        assert look.fingerprint is not None
        work = self.store.work(look.fingerprint)
        name = look.step.name
        own = BudgetTracker(f"the budget of {name}", self.recipe.budgets.get(name, BudgetLimit()))
        budget = Budget((self._account, own))
        ctx = Context(staging / "files", work, self.store.root, self.progress.update, budget=budget)
        if uses_language_model(look):
            self.expected[name] = estimate_step(self.recipe, self.store, look, self.made)
        began = time.perf_counter()
        reset_peak()
        pool.peak = 0
        try:
            outcome = execute(look, self.made, self.store, ctx, pool)
        except UserError as error:
            error.where = error.where or f"{look.step.where}: {look.step.name}"
            raise
        finally:
            if uses_language_model(look):
                self.used[name] = ActualUsage.of(ctx.counters, own)
        manifest = self._manifest(look, outcome, staging)
        manifest["used"] = dict(sorted(ctx.counters.items()))
        manifest["seconds"] = round(time.perf_counter() - began, 3)
        manifest["peak_memory_bytes"] = max(peak_memory(), pool.peak)
        return self.store.commit(staging, manifest)

    def _manifest(self, look: PlannedStep, outcome: Outcome, staging: Path) -> Manifest:
        """Write the outcome into the staging folder and describe it."""
        stage = look.step.stage
        # Both let go of the interpreter's lock, so one goes on beside the other.
        with ThreadPoolExecutor(1) as beside:
            written = beside.submit(_write, outcome, staging)
            columns = {name: column_digest(outcome.kept[name]) for name in outcome.kept.columns}
            written.result()
        if not any((staging / "files").iterdir()):
            (staging / "files").rmdir()
        files = file_entries(staging)
        made = {n: e["sha256"] for n, e in files.items() if n.startswith("files/")}
        assert look.fingerprint is not None
        assert look.parts is not None
        return Manifest(
            format=FORMAT,
            recipe=self.recipe.name,
            name=look.step.name,
            stage=stage.name,
            version=stage.version,
            fingerprint=look.fingerprint,
            parts=dict(look.parts),
            code=code_hash(stage),
            digest=digest([columns, made]),
            columns=columns,
            counts=outcome.counts,
            computed=outcome.computed,
            incomplete=bool(outcome.counts["failed"]) and stage.retries,
            files=files,
            used={},
            seconds=0.0,
            peak_memory_bytes=0,
            libraries=_versions(),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )


@cache
def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in LIBRARIES}


def _write(outcome: Outcome, staging: Path) -> None:
    for name in ("kept", "dropped", "failed"):
        frame: pl.DataFrame = getattr(outcome, name)
        if frame.width and (len(frame) or name == "kept"):
            write_frame(staging / f"{name}.parquet", frame)


def told(manifest: Manifest) -> str:
    """One line about what a stage did with its rows."""
    counts = manifest["counts"]
    parts = [f"{counts['kept']:,} kept"] if counts["kept"] or counts["in"] else []
    dropped = sum(counts["dropped"].values())
    parts += [f"{dropped:,} dropped"] if dropped else []
    parts += [f"{counts['failed']:,} failed"] if counts["failed"] else []
    return ", ".join([*parts, f"{manifest['seconds']:.1f} s"])


@contextmanager
def _disk_trouble(root: Path) -> Iterator[None]:
    """Trouble with the disk is the user's to mend: told plainly, and nothing is damaged."""
    try:
        yield
    except OSError as error:
        if error.errno not in MENDS:
            raise
        place = Path(error.filename) if error.filename else root
        # What cannot be accessed outside the store was to be read.
        denied = error.errno in (errno.EACCES, errno.EPERM) and not place.is_relative_to(root)
        hint = "make it readable" if denied else MENDS[error.errno]
        raise UserError(str(error.strerror), where=str(place), hint=hint) from error
    except sqlite3.OperationalError as error:
        raise UserError(
            "the request journal cannot be written",
            where=str(root / "journal"),
            why=str(error),
            hint="free some space or choose another folder with --store DIR; nothing is lost",
        ) from error
