"""What holds for every stage, also for one that is added tomorrow: nothing here names any.

Documented, tested, with an example that runs; its requests are counted beforehand, and a
row's result depends on neither the other rows nor their order.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.models import LanguageModel
from pipeline.models.counting import CountingEncoder, CountingEngine, counting
from pipeline.recipe.discovery import available, find
from pipeline.recipe.docstrings import docstring_of
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
    named = arguments_of(inspect.getdoc(stage.function) or "")
    assert set(named) == {*(e.name for e in stage.edges), *(o.name for o in stage.options)}
    for option in stage.options:
        for name, group in option_groups(option.annotation).items():
            fields = {*inspect.signature(group).parameters} - {"name"}
            assert set(arguments_of(inspect.getdoc(group) or "")) == fields, name


def test_there_are_tests_of_it(stage: Stage) -> None:
    family, _, method = stage.name.partition(".")
    texts = [path.read_text("utf-8") for path in (TESTS / family).glob("test_*.py")]
    module = stage.function.__module__
    assert any(module in text or stage.name in text for text in texts), f"tests of {method}"


def _runs(stage: Stage) -> bool:
    """Whether the example can run here: stages that take files from others are run in recipes."""
    return stage.gives_rows and not any("files" in edge.kinds for edge in stage.edges)


def test_its_example_runs(stage: Stage, tmp_path: Path) -> None:
    example = example_of(stage)
    if not _runs(stage):
        return
    result, _ = run(example, tmp_path)
    assert isinstance(result, pl.DataFrame)
    if stage.annotates:
        assert len(result) == len(next(iter(example.inputs().values())))


def test_its_requests_are_counted_before_they_are_sent(stage: Stage, tmp_path: Path) -> None:
    example = example_of(stage)
    models = [v for v in vars(example.options).values() if isinstance(v, LanguageModel | tuple)]
    if not _runs(stage) or not any(isinstance(m, LanguageModel) for v in models for m in _each(v)):
        return
    _, sent = run(example, tmp_path / "sent")
    context = _Counted.of(tmp_path / "counted")
    context.counter = CountingEngine(LanguageModel(model="any"))
    with counting():
        stage.function(context, **example.inputs(), **vars(example.options))
    # An estimate lets every answer pass; a filter of the real run may stop some.
    assert context.counter.count.requests >= len(sent.engine.requests)
    assert bool(context.counter.count.requests) == bool(sent.engine.requests)


def _each(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


class _Counted(ExampleContext):
    counter: CountingEngine

    def open(self, model: object) -> object:
        return self.counter if isinstance(model, LanguageModel) else CountingEncoder()


def test_a_rows_result_depends_on_that_row_alone(stage: Stage, tmp_path: Path) -> None:
    if stage.scope != "row" or not _runs(stage):
        return
    example = example_of(stage)
    first = stage.edges[0].name
    rows = example.inputs()[first]
    whole, _ = run(example, tmp_path / "whole")
    turned, _ = run(example, tmp_path / "turned", **{first: rows.reverse()})
    part, _ = run(example, tmp_path / "part", **{first: rows[5:12]})
    assert_frame_equal(whole, turned.reverse())
    assert_frame_equal(whole[5:12], part)
