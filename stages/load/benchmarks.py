"""Evaluation items: what a training pool must not contain.

Some benchmarks come with the project (`data/benchmarks`); any other is a file
with the fields named. Only texts that identify an item are loaded: the letter
that answers a multiple-choice question occurs everywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal, NamedTuple

import polars as pl

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.stage import InputFiles, Items, stage
from schemas.records import ITEM_COLUMNS, digest
from stages._common.verdicts import evidence_of, verdict
from stages.load._files.container import container
from stages.load._files.json_lines import Position
from stages.load._files.tables import Delimiter
from stages.load._item_texts import NESTED, is_item, layout, texts_of
from stages.load._rows.output import (
    SURROGATE,
    TOO_DEEP,
    VERDICT,
    OutputRow,
    existing_files,
    peek,
    read_files,
    to_frame,
)

Name = Literal["gsm8k", "humaneval", "ifeval", "mmlu", "mt_bench", "truthfulqa", "vicuna_bench"]


class Benchmark(NamedTuple):
    """A bundled benchmark.

    Attributes:
        file: Its file.
        texts: The columns of each text of an item by the text's name; several are joined,
            one a line.
        key: The column of the item's own key.
    """

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

SHOWN: Final = 60
"""Characters of a text that a preview shows."""

_FOLDER: Final = Path(__file__).resolve().parents[2] / "data" / "benchmarks"
_SCHEMA: Final[dict[Any, Any]] = {**ITEM_COLUMNS, **VERDICT}


def input_files(options: SimpleNamespace) -> list[Path]:
    """The bundled files behind `names`: they enter the fingerprint by content."""
    return [_FOLDER / BUNDLED[name].file for name in options.names]


def _check(options: SimpleNamespace) -> None:
    """Whether there is something to load, and every benchmark has items."""
    if not options.names and not options.path:
        raise OptionError(
            "names",
            "or path must be given, got neither",
            hint=f"names: [{', '.join(BUNDLED)}], or path: FILE with benchmark: NAME",
        )
    if options.path and not options.benchmark:
        raise OptionError("benchmark", "must name what `path` holds, got no name")
    for option in ("benchmark", "fields", "key", "delimiter"):
        value = getattr(options, option)
        if value is not None and not options.path:
            raise OptionError(
                option,
                f"must be left out without `path`, got {value!r}",
                hint=f"it has no effect on the bundled benchmarks: leave {option} out",
            )
    existing_files(list(map(str, input_files(options))))
    texts = _columns(options.fields)
    columns: set[str] = set()
    for name, path in _named(options.benchmark, existing_files(options.path)):
        first, complete = peek(path, container, NESTED, options.delimiter)
        rows = [_output_row(name, texts, options.key, 0, (path.name, p)) for p in first]
        columns.update(*(row for _, row, _ in first if isinstance(row, dict)))
        if complete:
            _assert_items(name, path, rows)
    absent = [column for (column,) in texts.values() if column not in columns]
    if absent and columns:
        what = f"must name columns of the files, got {', '.join(map(repr, absent))}"
        raise OptionError("fields", what, hint=f"the columns are {_listed(sorted(columns))}")


def preview(options: SimpleNamespace) -> list[str]:
    """The first item of each file of the user's own, as it will be searched for."""
    lines = []
    texts = _columns(options.fields)
    for name, path in _named(options.benchmark, existing_files(options.path)):
        first, _ = peek(path, container, NESTED, options.delimiter)
        for number, position in enumerate(first):
            _, _, item, named, *_ = _output_row(
                name, texts, options.key, number, (path.name, position)
            )
            if named is not None:
                shown = (f"{text['name']} {_shortened(text['text'])!r}" for text in named)
                lines.append(f"{name}, item {item} of {path.name}: {', '.join(shown)}")
                unread = position[1].keys() - _columns_read(position[1], texts)
                lines.append(f"columns of {path.name} that are not read: {_listed(sorted(unread))}")
                break
    return lines


def _columns_read(row: dict[str, Any], texts: Mapping[str, tuple[str, ...]]) -> set[str]:
    return {column for columns in (texts or layout(row) or {}).values() for column in columns}


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(map(str, columns)) or "none"


def _named(benchmark: str | tuple[str, ...] | None, files: list[Path]) -> list[tuple[str, Path]]:
    """Each file with the name of its benchmark."""
    if benchmark is None or isinstance(benchmark, str):
        return [(benchmark or "", file) for file in files]
    if len(benchmark) != len(files):
        raise OptionError(
            "benchmark",
            f"must be one name, or one for each of the {len(files)} files, "
            f"got {len(benchmark)} names",
        )
    return list(zip(benchmark, files, strict=True))


def _columns(fields: dict[str, str] | None) -> dict[str, tuple[str, ...]]:
    return {name: (column,) for name, column in (fields or {}).items()}


def _assert_items(benchmark: str, file: Path, rows: list[OutputRow]) -> None:
    """Raise UserError where none of the rows of a file is an item."""
    if any(row[0] is not None for row in rows):
        return
    raise UserError(
        f"the benchmark {benchmark!r} has no items",
        where=file.name,
        why=str(rows[0][4]) if rows else "it is empty",
        hint="check the file, and say which columns are texts: fields: {question: COLUMN}",
    )


@stage(version=6, scope="set", check=_check)
def benchmarks(
    ctx: Context,
    *,
    names: tuple[Name, ...] = (),
    path: InputFiles = (),
    benchmark: str | tuple[str, ...] | None = None,
    fields: dict[str, str] | None = None,
    key: str | None = None,
    delimiter: Delimiter | None = None,
) -> Items:
    """Load the items of bundled benchmarks and of your own files, one row each.

    `texts` holds an item's texts by name, the n-th of a list as `name_n`; empty ones
    are left out. `item` is the key, or the number of the row from 0. A row without a
    text has failed, with `error`, `file` and `line`; an item that occurs twice, with key
    and texts, is dropped as `duplicate`. `plan` shows the first item of every file.

    Args:
        names: Benchmarks that come with the project.
        path: Files of other benchmarks.
        benchmark: The name of what these files hold, or a name for each, in their order.
        fields: Their texts, as {name: column}. By default the columns of the usual layouts,
            under their own names: conversations (`messages`, `conversations`; system turns
            are left out), what `cat -o` writes of records and of items, and questions with
            their passages, choices and answers as public benchmarks name them (`question`,
            `prompt`, `problem`, `turns`, `choices`, `solution`, ...; all of them stand in
            `stages/load/_item_texts.py`). A file of other columns is refused.
        key: Their column of the item's own key.
        delimiter: Between the cells of CSV, such as ';'; a comma by default, a tab in TSV.

    Raises:
        UserError: A file cannot be read or has no items: an empty benchmark would make
            every pool look clean.

    Example:
        ```yaml
        exams:
          uses: load.benchmarks
          with: {names: [gsm8k, humaneval]}
        ```

        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> (folder / "quiz.jsonl").write_text('{"question": "Why?", "choices": ["a", "b"]}')
        43
        >>> path = (str(folder / "quiz.jsonl"),)
        >>> items = benchmarks(Context.scratch(folder), path=path, benchmark="quiz")
        >>> [text["name"] for text in items["texts"][0]]
        ['question', 'choices_1', 'choices_2']
    """
    sources: list[tuple[str, Path, Mapping[str, tuple[str, ...]], str | None, Delimiter | None]] = [
        (name, _FOLDER / BUNDLED[name].file, BUNDLED[name].texts, BUNDLED[name].key, None)
        for name in dict.fromkeys(names)
    ]
    files = _named(benchmark, existing_files(path))
    sources += [(*named, _columns(fields), key, delimiter) for named in files]
    before: Counter[str] = Counter()
    parts = []
    for name, file, texts, key_column, between in sources:
        positions = read_files(ctx, [file], container, NESTED, between)
        parts.append(_items(positions, name, file, texts, key_column, before[name]))
        before[name] += len(parts[-1])
    return _without_repeats(pl.concat(parts)).select(list(_SCHEMA)).cast(_SCHEMA)


def _items(
    positions: Iterable[tuple[str, Position]],
    benchmark: str,
    file: Path,
    texts: Mapping[str, tuple[str, ...]],
    key: str | None,
    first: int,
) -> pl.DataFrame:
    """The output rows of one file, which are numbered from `first`."""
    rows = (_output_row(benchmark, texts, key, n, p) for n, p in enumerate(positions, first))
    kinds: dict[Any, Any] = {**ITEM_COLUMNS, **{k: VERDICT[k] for k in ("error", "file", "line")}}
    frame = to_frame(rows, lambda batch: pl.DataFrame(batch, schema=kinds, orient="row"))
    if frame["id"].null_count() == len(frame):
        _assert_items(benchmark, file, frame.head(1).rows())
    return frame


def _output_row(
    benchmark: str,
    texts: Mapping[str, tuple[str, ...]],
    key: str | None,
    number: int,
    position: tuple[str, Position],
) -> OutputRow:
    file, (line, row, error) = position
    try:
        if error or not isinstance(row, dict):
            raise ValueError(error or "a row must be an object")
        columns = texts or layout(row)
        if columns is None:
            raise ValueError(f"no column is known as a text; its columns are {_listed(row)}")
        named = [{"name": name, "text": text} for name, text in texts_of(row, columns)]
        if not named:
            expected = ", ".join(column for columns in columns.values() for column in columns)
            raise ValueError(f"it has no text in {expected}; its columns are {_listed(row)}")
        item = str(_key(row, key, number))
        return (digest([benchmark, item, named]), benchmark, item, named, None, None, None)
    except KeyError:
        reason = f"missing field {key!r}"
    except UnicodeEncodeError:
        reason = SURROGATE
    except RecursionError:
        reason = TOO_DEEP
    except ValueError as bad:
        reason = str(bad)
    return (None, None, None, None, reason, file, line)


def _key(row: dict[str, Any], key: str | None, number: int) -> Any:
    """The item's own key: a column, the key that an item of ours has, or the row's number."""
    if key is not None:
        return row[key]
    return row["item"] if is_item(row) else number


def _without_repeats(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows with every item after the first of its id dropped."""
    is_repeat = pl.col("id").is_not_null() & ~pl.col("id").is_first_distinct()
    return frame.with_columns(
        verdict(is_repeat, "duplicate", evidence_of("id", "benchmark", "item"))
    )
