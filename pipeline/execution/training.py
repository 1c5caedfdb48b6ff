"""A training stage on a folder of shards, without a recipe and a store.

Its checkpoints lie below the folder of the result, under a digest of all that it follows from: a
training that was killed goes on where the same one is started again, and another one does not.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from pipeline.context import Context
from pipeline.errors import OptionError, UserError, program
from pipeline.execution.group import call_stage
from pipeline.execution.launched import is_first
from pipeline.models.identity import identity
from pipeline.recipe.discovery import find
from pipeline.recipe.options import bind, build_model
from pipeline.recipe.problems import Problem
from pipeline.recipe.yaml_document import apply_override, parse
from pipeline.stage import DataKind, Stage
from pipeline.store.file_hashes import FileDigests
from pipeline.store.hashing import digest, to_json_value

METRICS: Final = "metrics.json"
"""What every training writes last."""

_PLACE: Final = "stages.train.with."


@dataclass(frozen=True)
class Training:
    """A training that is ready to run.

    Attributes:
        stage: The stage.
        shards: The folder that it reads.
        options: Its options.
        folder: Where the result goes.
    """

    stage: Stage
    shards: Path
    options: SimpleNamespace
    folder: Path

    @classmethod
    def of(
        cls, uses: str, shards: Path, model: Mapping[str, Any], options: Sequence[str], folder: Path
    ) -> Training:
        """A training as a command line has it.

        Args:
            uses: The stage.
            shards: The folder that an export stage wrote.
            model: The fields of the model.
            options: `OPTION=VALUE` texts; `model.FIELD=VALUE` is one of the model.
            folder: Where the result goes.

        Raises:
            UserError: There are no shards, no such stage or option, or the result is there.
        """
        stage = find(uses)
        if DataKind.FILES not in (stage.edges[0].kinds if stage.edges else ()):
            raise UserError(f"{uses} does not train on shards", hint="--uses train.sft")
        if not any((shards / "data").glob("*.parquet")):
            raise UserError(
                "there are no data/*.parquet",
                where=str(shards),
                hint=f"name the folder that `{program()} status RECIPE` shows for an export stage",
            )
        if (folder / METRICS).exists():
            raise UserError("the folder holds a training already", where=str(folder),
                            hint="choose another --to, or remove it")  # fmt: skip
        return cls(stage, shards.resolve(), _bound(stage, model, options), folder.resolve())

    def run(self, report: Callable[[float, float | None], None]) -> None:
        """Train, and put the result into the folder.

        Args:
            report: Where progress goes.
        """
        own = self.folder / "unfinished" / self.key()
        ctx = Context(own / "files", own / "work", own / "store", report)
        ctx.work.mkdir(parents=True, exist_ok=True)
        if is_first():
            shutil.rmtree(ctx.files, ignore_errors=True)
            for folder in (ctx.files, ctx.store):
                folder.mkdir(exist_ok=True)
        first, *others = self.stage.edges
        edges = {first.name: self.shards, **{edge.name: None for edge in others}}
        call_stage(self.stage, ctx, edges, self.options)
        if is_first():
            results = sorted(ctx.files.iterdir(), key=lambda path: path.name == METRICS)
            for path in results:
                target = self.folder / path.name
                shutil.rmtree(target, ignore_errors=True)
                path.rename(target)
            shutil.rmtree(self.folder / "unfinished")

    def key(self) -> str:
        """A digest of all that the result follows from: shards, options, weights, the stage."""
        cache = self.folder / "unfinished" / "files.json"
        if is_first():
            cache.parent.mkdir(parents=True, exist_ok=True)
        files = FileDigests(cache)
        values: dict[str, Any] = {}
        for option in self.stage.options:
            value = getattr(self.options, option.name)
            if option.is_model:
                values[option.name] = option.each(value, lambda model: identity(model, files))
            elif option.names_files:
                values[option.name] = files.get_many(value)
            else:
                values[option.name] = to_json_value(value)
        shards = sorted((self.shards / "data").glob("*.parquet"))
        named = [[path.name, hash_] for path, hash_ in zip(shards, files.get_many(shards),
                                                           strict=True)]  # fmt: skip
        return digest([self.stage.name, self.stage.version, values, named])[:16]


def _bound(stage: Stage, model: Mapping[str, Any], options: Sequence[str]) -> SimpleNamespace:
    """The options of a stage, with defaults.

    Raises:
        UserError: Something is wrong with one, or with all of them together.
    """
    document = parse("stages: {train: {with: {}}}", "--set")
    for text in options:
        apply_override(document, _PLACE + text)
    raw = document.content["stages"]["train"]["with"]
    fields = raw.pop("model", {})
    if not isinstance(fields, dict):
        raise UserError("--set model: must be a field of the model, such as model.dtype")
    built, problems = build_model({**model, **fields}, Path.cwd())
    _refuse(problems, "model.")
    bound, problems = bind(stage, {**raw, "model": "model"}, {"model": built}, Path.cwd())
    _refuse(problems, "")
    try:
        if stage.check:
            stage.check(bound)
    except OptionError as error:
        where = f"--set {error.option}"
        raise UserError(error.what, where=where, why=error.why, hint=error.hint) from None
    return bound


def _refuse(problems: Sequence[Problem], place: str) -> None:
    for problem in problems:
        where = f"--set {place}{'.'.join(problem.path)}".rstrip(".")
        raise UserError(problem.what, where=where, hint=problem.hint)
