"""What holds for every stage, also for one that is added tomorrow: nothing here names any.

Documented, tested, with an example that runs; its requests are counted beforehand, and a
row's result depends on neither the other rows nor their order (of set-scope stages
`test_source_order.py` shows it).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.models import LanguageModel
from pipeline.models.counting import CountingEncoder, CountingEngine, counting
from pipeline.recipe.discovery import available, find
from pipeline.recipe.docstrings import class_arguments, docstring_of
from pipeline.recipe.problems import option_groups
from pipeline.stage import Stage
from tests.support.examples import ExampleContext, example_of, run

TESTS = Path(__file__).parent
STAGES = available()


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest) -> Stage:
    return find(request.param)


def test_the_docstrings_name_every_input_and_option_and_nothing_else(stage: Stage) -> None:
    assert sys.modules[stage.function.__module__].__doc__
    named = docstring_of(stage.function).arguments
    assert set(named) == {
        *(e.parameter for e in stage.edges),
        *(o.name for o in stage.options),
    }
    for option in stage.options:
        for name, group in option_groups(option.annotation).items():
            fields = {*inspect.signature(group).parameters} - {"name"}
            # What it inherits may be documented where that is; `name` says how it is chosen.
            own = set(docstring_of(group).arguments) - {"name"}
            assert own <= fields <= {*class_arguments(group)}, name


def test_there_are_tests_of_it(stage: Stage) -> None:
    family, _, method = stage.name.partition(".")
    texts = [path.read_text("utf-8") for path in (TESTS / family).glob("test_*.py")]
    module = stage.function.__module__
    assert any(module in text or stage.name in text for text in texts), f"tests of {method}"


First = Callable[[str], tuple[Any, ExampleContext]]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> First:
    """What the example of a stage gives, by name; it is run once for all tests here."""
    return cache(lambda name: run(example_of(find(name)), tmp_path_factory.mktemp("example")))


def _runs(stage: Stage) -> bool:
    """Whether the example can run here: those that take files or a release run in recipes."""
    takes_files = any(edge.kind == "files" for edge in stage.edges)
    return stage.gives_rows and not takes_files and not stage.reads_release


def test_its_example_runs(stage: Stage, first: First) -> None:
    example = example_of(stage)
    if not _runs(stage):
        return
    result, _ = first(stage.name)
    assert isinstance(result, pl.DataFrame)
    if stage.annotates:
        rows = example.inputs()[stage.edges[0].name]
        assert len(result) == len(rows[0] if stage.edges[0].many else rows)


def test_its_requests_are_counted_before_they_are_sent(
    stage: Stage, first: First, tmp_path: Path
) -> None:
    example = example_of(stage)
    models = [v for v in vars(example.options).values() if isinstance(v, LanguageModel | tuple)]
    if not _runs(stage) or not any(isinstance(m, LanguageModel) for v in models for m in _each(v)):
        return
    _, sent = first(stage.name)
    context = _Counted.of(tmp_path)
    context.counter = CountingEngine(LanguageModel(model="any"))
    with counting():
        stage.call(context, example.inputs(), vars(example.options))
    # An estimate lets every answer pass; a filter of the real run may stop some.
    assert context.counter.count.requests >= len(sent.engine.requests)
    assert bool(context.counter.count.requests) == bool(sent.engine.requests)


def _each(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


class _Counted(ExampleContext):
    counter: CountingEngine

    def open(self, model: object) -> object:
        return self.counter if isinstance(model, LanguageModel) else CountingEncoder()


def test_a_rows_result_depends_on_that_row_alone(
    stage: Stage, first: First, tmp_path: Path
) -> None:
    if stage.scope != "row" or not _runs(stage):
        return
    example = example_of(stage)
    edge = stage.edges[0].name
    rows = example.inputs()[edge]
    whole, _ = first(stage.name)
    turned, _ = run(example, tmp_path / "turned", **{edge: rows.reverse()})
    part, _ = run(example, tmp_path / "part", **{edge: rows[5:12]})
    assert_frame_equal(whole, turned.reverse())
    assert_frame_equal(whole[5:12], part)
