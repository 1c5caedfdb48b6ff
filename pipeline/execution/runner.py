"""Runs a recipe: each step whose artifact is missing, in order, committed as it is done."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Final

from pipeline.context import Context
from pipeline.errors import Exit, UserError
from pipeline.execution.actual_usage import ActualUsage
from pipeline.execution.backends import Backend
from pipeline.execution.backends.processes import Processes
from pipeline.execution.count_requests import language_models
from pipeline.execution.estimate import (
    Estimate,
    estimate_step,
    key_notes,
    uses_language_model,
)
from pipeline.execution.launched import refuse_launcher
from pipeline.execution.peak_memory import peak_memory, reset_peak
from pipeline.execution.plan import (
    PlannedStep,
    StepOutputs,
    check,
    partial_parts,
    plan,
    plan_step,
    select_steps,
)
from pipeline.execution.progress import Progress, StartedStep
from pipeline.execution.remote_inputs import fetch_missing
from pipeline.execution.run_step import execute, has_cached_rows
from pipeline.execution.spending import tracker
from pipeline.execution.verdicts import Outcome
from pipeline.execution.workers import WorkerPool
from pipeline.models.base import LanguageModel
from pipeline.models.budget import Budget, BudgetTracker, Usage
from pipeline.models.engines.registry import end_processes
from pipeline.recipe.code_hash import code_hash
from pipeline.recipe.graph import Step
from pipeline.recipe.recipe import Recipe
from pipeline.store.artifact import Artifact, DamagedArtifact, file_entries
from pipeline.store.checksums import write_checksums
from pipeline.store.disk_errors import disk_errors_explained
from pipeline.store.hashing import digest
from pipeline.store.manifests import kept_digest
from pipeline.store.store import Store
from pipeline.wording import amount, counted
from schemas.manifest import FORMAT, Manifest

_log = logging.getLogger(__name__)

LIBRARIES: Final = ("numpy", "polars", "pyarrow", "scikit-learn", "torch", "transformers", "trl")


@dataclass
class Runner:
    """One run of a recipe on a store.

    Args:
        recipe: The recipe.
        store: Where artifacts are read and written.
        progress: Where progress is shown.
        workers: Processes for row-scope stages.
        backend: Where their chunks are computed; by default in these processes.
        accept_code: Reuse artifacts although the code of their stage changed.
        shown: The steps that `progress` shows, in order; by default those that a run leads to.
        partial: Go on with what came where a budget is reached.
        outputs: The artifacts of the steps that are done.
        expected: What steps were estimated to request from language models, by name.
        used: What they did request, by name.
        ran: Steps that were computed and not reused, in order.
        stopped: The step that did not come to its end.
        not_asked: Requests that a partial run did not send, by step.
        waiting: Why steps did not come to their end that wait for a provider's batches, by name.
    """

    recipe: Recipe
    store: Store
    progress: Progress
    workers: int = 1
    accept_code: bool = False
    shown: Sequence[str] = ()
    partial: bool = False
    backend: Backend | None = None
    outputs: StepOutputs = field(default_factory=StepOutputs)
    expected: dict[str, Estimate] = field(default_factory=dict)
    used: dict[str, ActualUsage] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    stopped: str | None = None
    not_asked: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, UserError] = field(default_factory=dict)
    _tracker: BudgetTracker = field(init=False)
    _beyond: dict[str, Usage] = field(init=False, default_factory=dict)

    def run(self, targets: Sequence[str] = ()) -> Exit:
        """Run what is missing.

        Args:
            targets: Names of steps to run up to; empty for all.

        Returns:
            `Exit.DONE`, `Exit.WAITING` if steps wait for a provider's batches, `Exit.BUDGET` if a
            partial run left rows out, or `Exit.ROWS_FAILED` if rows failed in some step.

        Raises:
            UserError: Something that the user can fix. What is committed stays.
        """
        # The life of a step: with the store locked, the whole recipe is planned, so that drifted
        # code and wrong options are refused before anything runs. Then each step in turn is
        # planned again, executed, staged (written beside its final folder) and committed (renamed
        # into it). It is planned again because a fingerprint depends on the content of the
        # inputs: behind a step that has to run it was unknown before. A step that raises ends
        # the run; its staging folder is removed, its work folder and cached rows stay. One that
        # waits for a provider's batch holds back only what needs it: the other steps run, and
        # submit theirs. Only where a step read a damaged artifact is all planned again: that
        # artifact is then missing.
        refuse_launcher()
        with disk_errors_explained(self.store.root), self.store.locked():
            fetch_missing(select_steps(self.recipe, targets), self.store)
            self._tracker = tracker(self.recipe, self.store)
            damaged: set[Path] = set()
            while True:
                try:
                    self._run_all(targets)
                    break
                except DamagedArtifact as error:  # from now on it counts as missing
                    if error.folder in damaged:
                        raise
                    damaged.add(error.folder)
        if self.waiting:
            return Exit.WAITING
        if self.not_asked:
            return Exit.BUDGET
        failed = any(a.manifest["counts"]["failed"] for a in self.outputs.artifacts.values())
        return Exit.ROWS_FAILED if failed else Exit.DONE

    def _run_all(self, targets: Sequence[str]) -> None:
        self.outputs, self.not_asked, self.waiting = StepOutputs(), {}, {}
        steps = plan(self.recipe, self.store, targets)
        self._refuse_drift(steps)
        check(steps)
        for note in key_notes(steps):  # better now than once the stages before are paid
            _log.warning(note)
        backend = self.backend or (Processes(self.workers) if self.workers > 1 else None)
        pool, selected = WorkerPool(backend), select_steps(self.recipe, targets)
        numbers = {name: n for n, name in enumerate(self.shown or [s.name for s in selected], 1)}
        try:
            for step in selected:
                if not self.outputs.artifacts.keys() >= {*step.upstream}:
                    continue  # it needs a step that waits
                files = self.store.files()
                planned = plan_step(self.recipe, step, self.store, self.outputs, files)
                with self._noting_batches(step):
                    self.outputs.add(step, self._run_or_reuse(planned, pool, numbers[step.name]))
        finally:
            pool.close()

    @contextmanager
    def _noting_batches(self, step: Step) -> Iterator[None]:
        """Keep why a step waits for a provider's batches, and go on with the others."""
        try:
            yield
        except UserError as error:
            if error.code is not Exit.WAITING and not (self.waiting and error.code is Exit.BUDGET):
                raise  # a budget's end hides no step that waits: that is to be run again
            self.waiting[step.name] = error
            self.progress.finish(error.what)

    def _refuse_models(self, planned: PlannedStep) -> None:
        if self.backend and not self.backend.asks_models and uses_language_model(planned):
            raise UserError(
                "a stage that asks a language model does not run here",
                where=planned.step.where,
                why="its answers belong into the journal, which is on a local disk",
                hint=f"run {self.recipe.name} {planned.step.name} without --on first, then go on",
            )

    def _refuse_drift(self, steps: Sequence[PlannedStep]) -> None:
        drifted = sorted({planned.step.stage.name for planned in steps if planned.drifted})
        if drifted and not self.accept_code:
            raise UserError(
                f"the code of {', '.join(drifted)} changed under the same version",
                where=str(self.store.root),
                why="the stage itself, or a module that it imports, is not the code that computed "
                "the artifacts in this store",
                hint="raise version= in @stage to compute them again, or reuse what is there: "
                + self.recipe.command("run", "--accept-code", store=self.store.root),
                code=Exit.DRIFT,
            )

    def _run_or_reuse(self, planned: PlannedStep, pool: WorkerPool, number: int) -> Artifact:
        """The step's artifact, computed unless it is cached.

        Args:
            planned: The step; its inputs exist.
            pool: Worker processes for row-scope stages.
            number: Its position among the steps that are shown, from 1.
        """
        assert planned.fingerprint is not None
        stage = planned.step.stage
        is_first_run = self.store.code(stage.name, stage.version) is None
        self.store.set_code(stage.name, stage.version, code_hash(stage))
        if planned.state == "cached" and planned.artifact:
            if planned.artifact.files.is_dir():
                planned.artifact.verified_files(self.store.files())
            history = self.recipe.history(planned.parts)
            self.store.set_latest(history, planned.step.name, planned.fingerprint)
            self.progress.reuse(number, _row_counts(planned.artifact.manifest))
            return planned.artifact
        self.stopped = planned.step.name
        staging = self.store.staging(planned.fingerprint)
        try:
            artifact = self._run_step(planned, staging, pool, number)
        except OSError:
            # Whoever took the lock has removed what this run had half written.
            self.store.ensure_locked()
            raise
        except Exception:
            work = self.store.work(planned.fingerprint)
            has_results = any(work.iterdir()) or has_cached_rows(planned, self.store)
            if is_first_run and not has_results:
                self.store.remove_code(stage.name, stage.version)
            raise
        finally:
            end_processes()
            shutil.rmtree(staging, ignore_errors=True)
        self.progress.finish(summary(artifact.manifest))
        self.stopped = None
        self.ran.append(planned.step.name)
        return artifact

    def _run_step(
        self, planned: PlannedStep, staging: Path, pool: WorkerPool, number: int
    ) -> Artifact:
        """Execute a step in its staging folder, and commit it."""
        assert planned.fingerprint is not None
        work = self.store.work(planned.fingerprint)
        name = planned.step.name
        own = tracker(self.recipe, self.store, name)
        trackers = (self._tracker, own)
        budget = Budget(trackers, self.recipe.name, name, self._beyond, self.partial)
        ctx = Context(staging / "files", work, self.store.root, self.progress.update, budget=budget)
        models, usage = _names(language_models(planned)), partial(_usage, ctx.counters, own)
        run_usage = partial(_run_usage, self._tracker)
        uses = planned.step.stage.name
        self.progress.start(StartedStep(number, name, uses, models, usage, run_usage))
        if uses_language_model(planned):
            self.expected[name] = estimate_step(self.recipe, self.store, planned, self.outputs)
        self._refuse_models(planned)
        start = time.perf_counter()
        reset_peak()
        pool.peak = 0
        try:
            outcome = execute(planned, self.outputs, self.store, ctx, pool)
        except UserError as error:
            error.where = _place(planned.step, error.where)
            raise
        finally:
            if uses_language_model(planned):
                self.used[name] = ActualUsage.of(ctx.counters, own.spent)
        if budget.not_sent:
            self.not_asked[name] = budget.not_sent
            parts = partial_parts(planned.parts or {})
            planned = replace(planned, parts=parts, fingerprint=digest(parts))
        manifest = self._manifest(planned, outcome, staging)
        manifest["used"] = dict(sorted(ctx.counters.items()))
        manifest["seconds"] = round(time.perf_counter() - start, 3)
        manifest["peak_memory_bytes"] = max(peak_memory(), pool.peak)
        return self.store.commit(staging, manifest)

    def _manifest(self, planned: PlannedStep, outcome: Outcome, staging: Path) -> Manifest:
        """Describe what lies in the staging folder."""
        stage = planned.step.stage
        if not any((staging / "files").iterdir()):
            (staging / "files").rmdir()
        write_checksums(staging)
        files = file_entries(staging)
        assert planned.fingerprint is not None
        assert planned.parts is not None
        return Manifest(
            format=FORMAT,
            recipe=self.recipe.history(planned.parts),
            name=planned.step.name,
            stage=stage.name,
            version=stage.version,
            fingerprint=planned.fingerprint,
            parts=dict(planned.parts),
            code=code_hash(stage),
            digest=kept_digest(outcome.columns, files),
            columns=outcome.columns,
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


def _place(step: Step, where: str | None) -> str:
    """Where an error was raised: the id of a row alone does not say in which step."""
    place = f"{step.where}: {step.name}"
    if where is not None and not where.startswith("row "):
        return where
    return f"{place}: {where}" if where else place


def _names(models: Sequence[LanguageModel]) -> list[str]:
    """The names of models, without the folders in which their weights lie."""
    return list(dict.fromkeys(model.model.rstrip("/").rsplit("/", 1)[-1] for model in models))


def _usage(counters: Mapping[str, int], tracker: BudgetTracker) -> str:
    """What a step used so far, where there is anything to say: money, and what failed."""
    failed = counters.get("unanswered", 0)
    parts = [*_money(tracker), *([f"{failed:,} failed"] if failed else [])]
    return ", ".join(parts)


def _run_usage(tracker: BudgetTracker) -> str:
    """What a run used so far: requests, tokens and money; nothing where nothing was sent."""
    spent = tracker.spent
    if not spent.requests:
        return ""
    counts = [counted(spent.requests, "request"), counted(spent.tokens, "token")]
    return ", ".join([*counts, *_money(tracker)])


def _money(tracker: BudgetTracker) -> list[str]:
    limit, spent = tracker.limit, tracker.spent.money
    if not spent:
        return []
    if limit.money is None:
        return [f"{amount(spent)} {tracker.currency}"]
    period = f" per {limit.per}" if limit.per else ""
    used = tracker.earlier.money + spent
    return [f"{amount(used)} of {amount(limit.money, 6)} {tracker.currency}{period}"]


@cache
def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in LIBRARIES}


def summary(manifest: Manifest) -> str:
    """One line about what a step did with its rows."""
    return ", ".join(filter(None, [_row_counts(manifest), f"{manifest['seconds']:.1f} s"]))


def _row_counts(manifest: Manifest) -> str:
    counts = manifest["counts"]
    parts = [f"{counts['kept']:,} kept"] if counts["kept"] or counts["in"] else []
    dropped = sum(counts["dropped"].values())
    parts += [f"{dropped:,} dropped"] if dropped else []
    parts += [f"{counts['failed']:,} failed"] if counts["failed"] else []
    return ", ".join(parts)
