"""Every stage's own example, made runnable: the recipe snippet in its docstring, and rows for it.

A stage's docstring shows how a recipe writes it, as a YAML block with `uses`, `needs` and
`with`. Here its options are bound as a recipe's are, its inputs are made of bundled data
with whatever columns it reads, and its models answer at once.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import blake2b
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import polars as pl
import yaml

from pipeline.context import Context
from pipeline.models import Completion, Embedder, LanguageModel, Request, Scored
from pipeline.models.counting import CountingEncoder
from pipeline.models.identity import identity
from pipeline.recipe.options import bind
from pipeline.stage import ALL, ROOT, DataKind, Edge, OptionalColumn, Records, Stage, stage
from pipeline.store.file_hashes import FileDigests
from schemas.records import DOCUMENT_COLUMNS, digest
from tests.support.pairing import ranked_sample
from tests.support.rows import DATA, exam, json_lines, self_instruct
from tests.support.scripted import Answer, Scripted
from tests.support.teacher import teacher

FOLDER: Final = Path(__file__).parent
"""Where files that examples name are looked for before the repository, as beside a recipe."""

ROWS: Final = 24
MOST: Final = {"num_rows": 40, "max_requests": 60, "num_challenges": 20}
"""Sizes of what examples ask for, where it would take long.

The teacher proposes 40 tasks in a round of requests, so that none is more than `num_rows`:
estimates leave the surplus of the last round out.
"""

TINYLM: Final = LanguageModel(model=str(ROOT / "data/models/tinylm"))
_BLOCK: Final = re.compile(r"```yaml\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A stage as its docstring shows it: its options bound, and its inputs by edge.

    raw: the options as the recipe writes them. models: those that they name.
    """

    stage: Stage
    options: SimpleNamespace
    needs: dict[str, list[str]]
    raw: dict[str, Any]
    models: dict[str, LanguageModel | Embedder]

    def inputs(self) -> dict[str, Any]:
        """Frames for the edges that the example connects, None for those that it leaves out."""
        return {edge.name: self._input(edge) for edge in self.stage.edges}

    def _input(self, edge: Edge) -> Any:
        if edge.name not in self.needs:
            return None
        frames = [self._frame(edge, i) for i in range(len(self.needs[edge.name]))]
        return frames if edge.many else frames[0]

    def _frame(self, edge: Edge, part: int) -> pl.DataFrame:
        if edge.kind is DataKind.DOCUMENTS:
            return _documents()
        if edge.kind is DataKind.PAIRS:
            return _pairs()
        if edge.kind is DataKind.ITEMS:
            return exam(
                "gsm8k",
                [{"question": f"How many eggs are {n} and {n} eggs together?"} for n in range(8)],
            )
        rows = _records(self.source(edge, part))
        return rows.with_columns(column(rows["id"], name) for name in self.columns(edge, part))

    def source(self, edge: Edge, part: int) -> int:
        """The number of the pool on a place of an edge: branches that are joined share one."""
        return 0 if edge.many and self.stage.annotates else part

    def columns(self, edge: Edge, part: int) -> list[str]:
        """The columns that the stage reads there beside those of every record."""
        reads = self.stage.reads(edge.name, self.options)
        needed = [c for c in reads if not isinstance(c, OptionalColumn)]
        return (
            [f"added_{part}"] if reads == ALL else [c for c in needed if c not in (*_BASE, "split")]
        )


def example_of(stage: Stage) -> Example:
    """The example in a stage's docstring.

    Raises:
        AssertionError: There is none, or the recipe loader would refuse it.
    """
    module = sys.modules[stage.function.__module__]
    texts = (inspect.getdoc(stage.function) or "", inspect.cleandoc(module.__doc__ or ""))
    block = next((m[1] for text in texts if (m := _BLOCK.search(text))), None)
    assert block, f"{stage.name}: the docstring shows no ```yaml example"
    shown = _step(yaml.safe_load(block), stage.name)
    raw = shown.get("with") or {}
    raw |= {name: min(raw[name], most) for name, most in MOST.items() if name in raw}
    models = {
        name: Embedder(model="any") if option.accepts(Embedder) else TINYLM
        for option in stage.options
        if option.is_model and raw.get(option.name)
        for name in ([raw[option.name]] if isinstance(raw[option.name], str) else raw[option.name])
    }
    options, problems = bind(stage, raw, models, FOLDER)
    assert not problems, f"{stage.name}: {problems}"
    if stage.check:
        stage.check(options)
    needs = shown.get("needs") or {}
    needs = needs if isinstance(needs, dict) else {stage.edges[0].name: needs}
    needs = {n: v if isinstance(v, list) else [v] for n, v in needs.items()}
    return Example(stage, options, needs, raw, models)


def _step(shown: Any, name: str) -> dict[str, Any]:
    """The step of a stage in a snippet: that step alone, some of a recipe's, or a recipe."""
    steps = [shown, *shown.values(), *shown.get("stages", {}).values()]
    uses = [step for step in steps if isinstance(step, dict) and step.get("uses") == name]
    assert uses, f"{name}: the docstring's example does not use it"
    return uses[0]


class ExampleContext(Context):
    """Language models answer as the teacher does; likelihoods are tinylm's own."""

    engine: ExampleEngine

    @classmethod
    def of(cls, folder: Path) -> ExampleContext:
        context = cls(folder / "files", folder / "work", folder / "store")
        for path in (context.files, context.work, context.store):
            path.mkdir(parents=True)
        context.engine = ExampleEngine(Context.open, context)
        return context

    def open(self, model: LanguageModel | Embedder) -> Any:
        return self.engine if isinstance(model, LanguageModel) else CountingEncoder()


class ExampleEngine(Scripted):
    """Scripted answers, and tinylm where likelihoods or a tokenizer are needed."""

    def __init__(self, open_model: Any, context: Context) -> None:
        super().__init__(_teacher)
        self._open = lambda: open_model(context, TINYLM)

    def _answer(self, request: Request) -> Completion:
        """As every engine: one of the choices, where there are any."""
        answer, choice = super()._answer(request), request.decoding.choice
        return answer if not choice or answer.text in choice else replace(answer, text=choice[0])

    @property
    def tokenizer(self) -> Any:  # type: ignore[override]
        return self._open().tokenizer

    @property
    def weights(self) -> Any:
        return self._open().weights

    def loglikelihood(self, sequences: Sequence[Scored]) -> Any:
        return self._open().loglikelihood(sequences)

    @property
    def requests(self) -> list[Request]:
        """All requests so far."""
        return [request for call in self.calls for request in call]


def run(example: Example, folder: Path, **inputs: Any) -> tuple[Any, ExampleContext]:
    """The stage's result on the example's inputs, or on those given instead."""
    context = ExampleContext.of(folder)
    arguments = {**example.inputs(), **inputs}
    result = example.stage.call(context, arguments, vars(example.options))
    return pl.concat(result) if isinstance(result, Iterator) else result, context


def _teacher(text: str) -> Answer:
    """The teacher's answer, with the tasks of a list in words of their own: filters see no two."""
    answer, reason = teacher(text)
    return re.sub(r"Build the house \d+, part \d+\.", _task, answer), reason


def _task(match: re.Match[str]) -> str:
    digits = blake2b(match[0].encode(), digest_size=12).hexdigest()
    return "Write " + " ".join(digits[i : i + 4] for i in range(0, 24, 4)) + "."


@stage(
    version=1,
    scope="set",
    adds=lambda options, _: {n: column(pl.Series(["0"]), n).dtype for n in options.names},
)
def columns(ctx: Context, rows: Records, *, names: tuple[str, ...]) -> pl.DataFrame:
    """Columns that a stage reads, for recipes of examples; see `column`."""
    return pl.DataFrame([column(rows["id"], name) for name in names])


@cache
def _records(part: int = 0) -> pl.DataFrame:
    return self_instruct(400).gather_every(7, part)[:ROWS]


_BASE: Final = tuple(_records().columns)


@cache
def _documents() -> pl.DataFrame:
    texts = [row["text"][:900] for row in json_lines(DATA / "samples/rust_book.jsonl.gz")[:3]]
    rows = [
        {"id": digest(t), "text": t, "origins": [{"source": "s", "index": i, "license": "MIT"}]}
        for i, t in enumerate(texts)
    ]
    return pl.DataFrame(rows, schema=DOCUMENT_COLUMNS).sort("id")


@cache
def _pairs() -> pl.DataFrame:
    return ranked_sample()[:ROWS]


def column(ids: pl.Series, name: str) -> pl.Series:
    """Values for a column that a stage reads, by what its name says it holds.

    A row's value is a function of its id.
    """
    numbers = [_number(f"{name} {id_}") for id_ in ids]
    if "vector" in name:
        matrix = CountingEncoder().encode([*ids])
        return pl.Series(name, matrix.tolist(), dtype=pl.List(pl.Float32))
    if name == "agreement_models":
        return pl.Series(name, [[_tinylm_weights()]] * len(numbers), dtype=pl.List(pl.String))
    if "tags" in name:
        return pl.Series(name, [["a", "b", "c"][: 1 + n % 3] for n in numbers])
    if "token" in name or "cluster" in name or "rank" in name:
        return pl.Series(name, [1 + n % 5 for n in numbers], dtype=pl.Int32)
    if name.startswith(("is_", "has_")):
        return pl.Series(name, [n % 2 == 0 for n in numbers])
    if any(word in name for word in ("class", "language", "source", "group", "topic", "type")):
        return pl.Series(name, ["abc"[n % 3] for n in numbers])
    return pl.Series(name, [n / 1000 for n in numbers], dtype=pl.Float32)


@cache
def _tinylm_weights() -> str:
    files = FileDigests(Path(tempfile.mkdtemp()) / "files.json")
    return json.dumps(identity(TINYLM, files)["weights"], sort_keys=True)


def _number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "big") % 1000
