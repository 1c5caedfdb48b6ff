"""Evaluation items: what a training pool must not contain.

Some benchmarks come with the project (`data/benchmarks`); any other is a file
with the fields named. Only texts that could give an item away are taken: the
letter that answers a multiple-choice question would be found everywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal, NamedTuple

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import InputFiles, Items, stage
from schemas.records import ITEM_COLUMNS, digest
from stages._common.unused_options import refuse_idle
from stages.load._account import VERDICT, Line, columns, existing, located, peek
from stages.load._stream import container

Name = Literal["gsm8k", "humaneval", "ifeval", "mmlu", "mt_bench", "truthfulqa", "vicuna_bench"]


class Benchmark(NamedTuple):
    """A file, the texts of an item (name -> columns, joined by lines), the item's own key."""

    file: str
    texts: Mapping[str, tuple[str, ...]]
    key: str | None = None


BUNDLED: Final[Mapping[str, Benchmark]] = {
    "gsm8k": Benchmark("gsm8k_test.jsonl.gz", {"question": ("question",), "answer": ("answer",)}),
    "humaneval": Benchmark(
        "HumanEval.jsonl.gz",
        {"prompt": ("prompt",), "canonical_solution": ("canonical_solution",)},
        "task_id",
    ),
    "ifeval": Benchmark("ifeval.jsonl.gz", {"prompt": ("prompt",)}, "key"),
    "mmlu": Benchmark(
        "mmlu_test.parquet", {"question": ("question",), "choices": ("A", "B", "C", "D")}
    ),
    "mt_bench": Benchmark("mt_bench.jsonl.gz", {"turns": ("turns",)}, "question_id"),
    "truthfulqa": Benchmark(
        "TruthfulQA.csv",
        {
            "question": ("Question",),
            "answer": ("Best Answer",),
            "correct_answers": ("Correct Answers",),
            "incorrect_answers": ("Incorrect Answers",),
        },
    ),
    "vicuna_bench": Benchmark("vicuna_bench.jsonl.gz", {"turns": ("turns",)}, "question_id"),
}

_FOLDER: Final = Path(__file__).resolve().parents[2] / "data" / "benchmarks"
_SCHEMA: Final[dict[Any, Any]] = {**ITEM_COLUMNS, **VERDICT}


def input_files(options: SimpleNamespace) -> list[Path]:
    """The bundled files behind `names`: they enter the fingerprint by content."""
    return [_FOLDER / BUNDLED[name].file for name in options.names]


def check(options: SimpleNamespace) -> None:
    """Whether there is something to load, and every benchmark has items."""
    if not options.names and not options.path:
        raise UserError(
            "load.benchmarks needs `names` or a `path`",
            hint=f"names: [{', '.join(BUNDLED)}], or path: FILE with benchmark: NAME",
        )
    if options.path and not options.benchmark:
        raise UserError("a benchmark of your own needs a name", hint="benchmark: NAME")
    existing(list(map(str, input_files(options))))
    texts = _columns(options.fields)
    for name, path in _named(options.benchmark, existing(options.path)):
        found, whole = peek(path, container)
        lines = [_line(name, texts, options.key, 0, (path.name, position)) for position in found]
        if whole:
            _assert_items(name, path, lines)
    refuse_idle(
        *(benchmarks, options),
        (bool(options.path), "a benchmark of your own: path", "benchmark fields key"),
    )


def _named(benchmark: str | tuple[str, ...] | None, files: list[Path]) -> list[tuple[str, Path]]:
    """Each file with the name of its benchmark. Raises UserError where the names do not fit."""
    if benchmark is None or isinstance(benchmark, str):
        return [(benchmark or "", file) for file in files]
    if len(benchmark) != len(files):
        raise UserError(
            f"there are {len(files)} files and {len(benchmark)} names of benchmarks",
            hint="give one name for all files, or one for each, in their order",
        )
    return list(zip(benchmark, files, strict=True))


def _columns(fields: dict[str, str] | None) -> dict[str, tuple[str, ...]]:
    return {name: (column,) for name, column in (fields or {}).items()}


def _assert_items(benchmark: str, file: Path, lines: list[Line]) -> None:
    """Raises UserError where none of the lines of a file is an item."""
    if any(line[0] is not None for line in lines):
        return
    raise UserError(
        f"the benchmark {benchmark!r} has no items",
        where=file.name,
        why=str(lines[0][4]) if lines else "it is empty",
        hint="check the file, and `fields: {question: COLUMN}`",
    )


@stage(version=2, scope="set", check=check)
def benchmarks(
    ctx: Context,
    *,
    names: tuple[Name, ...] = (),
    path: InputFiles = (),
    benchmark: str | tuple[str, ...] | None = None,
    fields: dict[str, str] | None = None,
    key: str | None = None,
) -> Items:
    """The items of all named benchmarks and of files of one's own, one line each.

    names: benchmarks that come with the project.
    path: files of other ones. benchmark: what these are called together, or a name for
        each file, in their order.
    fields: its texts, as {name: column}; by default every field that is a text or
        a list of texts, under its own name. key: the column of the item's own key.

    `texts` holds an item's texts by name, the n-th of a list as `name_n`; empty ones
    are left out. `item` is the key, or the number of the row from 0. A row without a
    text has `error`, `file` and `line`; an item that occurs twice, with key and texts,
    is a `duplicate`.

    Raises UserError for a file that cannot be read or has no items: to find nothing in
    an empty benchmark would look like a clean pool.
    """
    check(SimpleNamespace(names=names, path=path, benchmark=benchmark, fields=fields, key=key))
    sources: list[tuple[str, Path, Mapping[str, tuple[str, ...]], str | None]] = [
        (name, _FOLDER / BUNDLED[name].file, BUNDLED[name].texts, BUNDLED[name].key)
        for name in dict.fromkeys(names)
    ]
    sources += [(*named, _columns(fields), key) for named in _named(benchmark, existing(path))]
    before: Counter[str] = Counter()
    parts = []
    for name, file, texts, own in sources:
        parts.append(_items(ctx, name, file, texts, own, before[name]))
        before[name] += len(parts[-1])
    return _once(pl.concat(parts)).select(list(_SCHEMA)).cast(_SCHEMA)


def _items(
    ctx: Context,
    benchmark: str,
    file: Path,
    texts: Mapping[str, tuple[str, ...]],
    key: str | None,
    first: int,
) -> pl.DataFrame:
    """The lines of one file; rows are numbered from `first`."""
    found = enumerate(located(ctx, [file], container), first)
    lines = (_line(benchmark, texts, key, number, place) for number, place in found)
    kinds: dict[Any, Any] = {**ITEM_COLUMNS, **{k: VERDICT[k] for k in ("error", "file", "line")}}
    frame = columns(lines, lambda batch: pl.DataFrame(batch, schema=kinds, orient="row"))
    if frame["id"].null_count() == len(frame):
        _assert_items(benchmark, file, frame.head(1).rows())
    return frame


def _line(
    benchmark: str,
    texts: Mapping[str, tuple[str, ...]],
    key: str | None,
    number: int,
    place: tuple[str, tuple[int, Any, str | None]],
) -> Line:
    file, (line, row, error) = place
    try:
        if error or not isinstance(row, dict):
            raise ValueError(error or "a row must be an object")
        named = [{"name": name, "text": text} for name, text in _texts(row, texts)]
        if not named:
            wanted = ", ".join(column for among in texts.values() for column in among)
            raise ValueError(
                f"it has no text in {wanted or 'any field'}; its fields are {', '.join(row)}"
            )
        item = str(number if key is None else row[key])
        return (digest([benchmark, item, named]), benchmark, item, named, None, None, None)
    except KeyError:
        reason = f"missing field {key!r}"
    except UnicodeEncodeError:
        reason = "a lone surrogate, which is no text"
    except ValueError as bad:
        reason = str(bad)
    return (None, None, None, None, reason, file, line)


def _texts(row: dict[str, Any], texts: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    for name, among in (texts or {field: (field,) for field in row}).items():
        values = [row[column] for column in among if row.get(column) is not None]
        if len(among) > 1:
            values = ["\n".join(map(str, values))]
        for value in values:
            if isinstance(value, str) and value:
                yield name, value
            elif isinstance(value, list):
                parts = [(i, part) for i, part in enumerate(value, 1) if isinstance(part, str)]
                yield from ((f"{name}_{i}", part) for i, part in parts if part)


def _once(frame: pl.DataFrame) -> pl.DataFrame:
    """The lines with every item after the first of its id dropped."""
    later = pl.col("id").is_not_null() & ~pl.col("id").is_first_distinct()
    evidence = pl.struct("id", "benchmark", "item").struct.json_encode()
    return frame.with_columns(
        pl.when(later).then(pl.lit("duplicate")).alias("drop_reason"),
        pl.when(later).then(evidence).alias("evidence"),
    )
