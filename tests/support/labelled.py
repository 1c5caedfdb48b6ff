"""Labelled data sets, lists of tasks and templates, written and loaded by `load.tasks`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from pipeline.context import Context
from pipeline.recipe.discovery import find
from pipeline.stage import ROOT
from stages.load.tasks import tasks
from tests.support.options import options_of

TASKS = ROOT / "data/tasks"
LICENSED = {"source": "here", "license": "CC0-1.0"}
LABELS = ("no", "yes")


def jsonl(rows: Sequence[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def patterns(*pairs: tuple[str, str], task: str = "t") -> str:
    """A template file of one task."""
    return jsonl([{"task": task, "input_pattern": a, "target_pattern": b} for a, b in pairs])


def templates(*texts: tuple[str, str | None]) -> str:
    """A template file in promptsource's layout."""
    entries = [
        f"  k{i}: !Template\n    name: n{i}\n    jinja: {json.dumps(jinja)}\n"
        f"    answer_choices: {json.dumps(choices)}\n"
        "    metadata: !TemplateMetadata\n      original_task: true\n"
        for i, (jinja, choices) in enumerate(texts)
    ]
    return "dataset: d\ntemplates:\n" + "".join(entries)


class Folder:
    """A folder with files of tasks.

    Args:
        path: Where it is.
        files: The files' contents by name.
    """

    def __init__(self, path: Path, **files: str) -> None:
        self.path = path
        for name, text in files.items():
            self.write(name.replace("__", "."), text)

    def write(self, name: str, text: str) -> Path:
        (self.path / name).write_text(text, "utf-8")
        return self.path / name

    def listed(self, **entries: Mapping[str, Any]) -> str:
        """The path of a list of these tasks."""
        return str(self.write("list.yaml", yaml.safe_dump({"tasks": dict(entries)})))

    def load(self, entries: Mapping[str, Mapping[str, Any]], **options: Any) -> pl.DataFrame:
        """The rows of these tasks."""
        return load(self.listed(**entries), **options)


def load(*paths: str | Path, **options: Any) -> pl.DataFrame:
    """The rows of lists; their sums hold."""
    names = tuple(map(str, paths))
    with tempfile.TemporaryDirectory() as folder:
        ctx = Context.scratch(Path(folder))
        frame = tasks(ctx, path=names, **{**LICENSED, **options})
        counts = json.loads((ctx.files / "templates.json").read_text("utf-8"))
    verdicts = frame.select(
        pl.col("error").is_not_null().cast(int) + pl.col("drop_reason").is_not_null().cast(int)
    ).to_series()
    assert verdicts.max() in (0, 1, None)
    kept = frame.filter(verdicts == 0)
    assert kept["id"].is_unique().all()
    assert kept["messages"].list.len().to_list() == [2] * len(kept)
    assert frame.filter(pl.col("error").is_not_null())["line"].is_not_null().all()
    rendered = frame.filter(pl.col("format").is_not_null())
    assert sum(entry["rendered"] for entry in counts) == len(rendered)
    return frame


def check(*paths: str | Path, **options: Any) -> None:
    """What a recipe's check says of these lists."""
    stage = find("load.tasks")
    assert stage.check
    stage.check(options_of(tasks, path=tuple(map(str, paths)), **options))


def kept(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col("error").is_null() & pl.col("drop_reason").is_null())


def turns(frame: pl.DataFrame) -> list[tuple[str, str]]:
    """Prompt and target of the kept rows."""
    return [tuple(turn["content"] for turn in row) for row in kept(frame)["messages"]]


def reasons(frame: pl.DataFrame) -> dict[str, int]:
    """How many rows were dropped for what."""
    return dict(frame["drop_reason"].drop_nulls().value_counts().rows())
