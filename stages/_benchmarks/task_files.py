"""Task files of lm-evaluation-harness: only local ones, with all that they read.

A task's data are files beside its YAML that the recipe names too: then they are part of the
fingerprint, and nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pipeline.errors import UserError

BUILDERS: Final = ("json", "csv", "parquet", "text", "arrow")
"""What reads local files."""

OUTPUTS: Final = ("multiple_choice", "generate_until")
NEEDS_GREEDY: Final = ("exact_match",)
"""Metrics of choices that need to know whether a choice is the greedy one."""


def read_tasks(files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """The configurations of the tasks in some files, by name, with absolute paths of data.

    Args:
        files: YAML files, their data, and the modules that they name; YAML files without `task`
            are those that others include.

    Raises:
        UserError: A task cannot be read, is there twice, is of a kind that is not supported, or
            reads anything that is not among the files.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    known = {path.resolve() for path in files}
    tasks: dict[str, dict[str, Any]] = {}
    for path in files:
        if path.suffix not in (".yaml", ".yml"):
            continue
        try:
            config = load_yaml(path)
        except Exception as error:  # a module of the user's own may raise anything
            raise UserError(
                "the task file cannot be read", where=path.name, why=f"{error}"
            ) from error
        name = config.get("task")
        if not isinstance(name, str):
            continue
        if name in tasks:
            raise UserError(f"there are two tasks of the name {name!r}", where=path.name)
        _check(config, path)
        config["dataset_kwargs"] = {
            **(config.get("dataset_kwargs") or {}),
            "data_files": _data_files(config, path, known),
        }
        tasks[name] = config
    return tasks


def _check(config: Mapping[str, Any], path: Path) -> None:
    output = config.get("output_type", "generate_until")
    if output not in OUTPUTS:
        raise UserError(
            f"output_type must be one of {', '.join(OUTPUTS)}, got {output}", where=path.name
        )
    metrics = {str(metric.get("metric")) for metric in config.get("metric_list") or ()}
    if output == "multiple_choice" and (greedy := metrics.intersection(NEEDS_GREEDY)):
        raise UserError(
            f"metric must be another than {', '.join(sorted(greedy))} with multiple_choice",
            where=path.name,
            why="engines do not say which continuation is the greedy one",
            hint="acc, acc_norm, acc_bytes or acc_mutual_info",
        )
    if config.get("dataset_path") not in BUILDERS:
        raise UserError(
            f"dataset_path must be one of {', '.join(BUILDERS)}, got {config.get('dataset_path')}",
            where=path.name,
            why="benchmarks are read from local files, which are part of the fingerprint",
            hint="dataset_kwargs: {data_files: {test: FILE}} beside the task file",
        )


def _data_files(config: Mapping[str, Any], path: Path, known: set[Path]) -> dict[str, list[str]]:
    named = (config.get("dataset_kwargs") or {}).get("data_files")
    splits = named if isinstance(named, Mapping) else {"test": named}
    result = {}
    for split, value in splits.items():
        files = [path.parent / str(one) for one in (value if isinstance(value, list) else [value])]
        for file in files:
            if file.resolve() not in known:
                raise UserError(
                    f"data_files must be among the files of `task_files`, got {file.name}",
                    where=path.name,
                    why="they are part of the fingerprint",
                    hint=f"task_files: [..., {file.name}], beside the task file",
                )
        result[str(split)] = [str(file.resolve()) for file in files]
    return result
