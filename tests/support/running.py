"""Running recipes on small stores, in this process and as a command."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Exit
from pipeline.execution.plan import PlannedStep, plan
from pipeline.execution.progress import LineProgress
from pipeline.execution.runner import Runner
from pipeline.recipe.recipe import Recipe
from pipeline.stage import ROOT
from pipeline.store.artifact import Artifact
from pipeline.store.store import Store
from tests.support.cli import call

TOY = "tests.support.toys"
MODEL = {"toy": {"engine": "transformers", "model": "nowhere", "id": "toy-1"}}


def toys(text: str) -> str:
    """A recipe's text with `toy.` in place of the toys' long name."""
    return text.replace("toy.", f"{TOY}.")


def pool(path: Path, rows: int, start: int = 0) -> Path:
    """A file of questions with answers of 1 to 50 characters; every one is different."""
    lines = [f"question {i}\t{'x' * (i % 40)}{i}" for i in range(start, start + rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def recipe(stages: Mapping[str, Any], name: str = "toys") -> Recipe:
    named = {k: {**v, "uses": v["uses"].replace("toy.", f"{TOY}.")} for k, v in stages.items()}
    return Recipe.of(name, named, MODEL)


def run(wired: Recipe, store: Path, *targets: str, workers: int = 1, accept: bool = False) -> Exit:
    lines = LineProgress(len(wired.steps), lambda text: None)
    return Runner(wired, Store(store), lines, workers, accept).run(targets)


def states(wired: Recipe, store: Path) -> dict[str, str]:
    return {planned.step.name: planned.state for planned in plan(wired, Store(store))}


def planned_steps(wired: Recipe, store: Path) -> dict[str, PlannedStep]:
    return {planned.step.name: planned for planned in plan(wired, Store(store))}


def artifact(wired: Recipe, store: Path, step: str) -> Artifact:
    """The newest artifact of a step."""
    latest = Store(store).latest(wired.name, step)
    assert latest is not None
    return latest


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def command(
    *arguments: str, timeout: float = 60, folder: Path = ROOT, **more: str
) -> subprocess.CompletedProcess[str]:
    """`python -m pipeline ...` in a folder, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def called(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`command` without a process of its own, which costs more than most commands.

    Args:
        arguments: The words of the command line.
        more: Variables of the environment.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in more.items():
            patch.setenv(name, value)
        done = call(*arguments)
    return subprocess.CompletedProcess(arguments, done.code, done.stdout, done.stderr)


def timed(*arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """`command`, and the seconds of CPU that it took: those of the clock follow others' load."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = command(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def started(*arguments: str, **more: str) -> subprocess.Popen[str]:
    """`python -m pipeline ...`, running, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=ROOT,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def contents(store: Path, wired: Recipe) -> dict[str, Any]:
    """What the artifacts hold, byte for byte: sha256 of every file of every stage."""
    hashes = {}
    for name in wired.steps:
        manifest = artifact(wired, store, name).manifest
        hashes[name] = {file: entry["sha256"] for file, entry in manifest["files"].items()}
    return hashes


def counts(wired: Recipe, store: Path) -> dict[str, tuple[int, int, int, dict[str, int], int]]:
    """in, created, kept, dropped, failed of every stage; the sums are checked."""
    by_step = {}
    for name in wired.steps:
        c = artifact(wired, store, name).manifest["counts"]
        total = c["kept"] + sum(c["dropped"].values()) + c["failed"]
        assert c["in"] + c["created"] == total, name
        by_step[name] = (c["in"], c["created"], c["kept"], c["dropped"], c["failed"])
    return by_step
