"""Options: every mistake at its own line, and documentation from types and docstrings."""

from __future__ import annotations

import itertools
import json
import re
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import polars as pl
import pytest
import yaml
from pydantic import Field

from pipeline.cli.stage_docs import split_example, stage_entry, stage_page
from pipeline.context import Context
from pipeline.errors import OptionError, RecipeErrors, UserError
from pipeline.execution.plan import check, plan
from pipeline.models import Embedder, LanguageModel
from pipeline.recipe import renamed
from pipeline.recipe.discovery import available, find
from pipeline.recipe.docstrings import parse
from pipeline.recipe.options import bind
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.renamed import renamed_hint
from pipeline.recipe.type_text import type_text, yaml_text
from pipeline.stage import ROOT, InputFiles, Records, stage
from pipeline.store.store import Store
from pipeline.types import (
    Count,
    Fraction,
    FractionRange,
    NonEmpty,
    NonNegativeFloat,
    PositiveFloat,
    Range,
    option_group,
)
from tests.support.running import called, pool, toys

HERE = "tests.pipeline.test_options"


@option_group
class KMeans:
    """k-means on the vectors (Lloyd 1982).

    More about it.

    Args:
        n_clusters: How many clusters,

            chosen once for all.
        tolerance: When to stop.
    """

    name: Literal["kmeans"] = "kmeans"
    n_clusters: Count = 8
    tolerance: PositiveFloat = 1e-4


@option_group
class Window:
    """A window over the sorted scores.

    Args:
        low: Its lower end.
        high: Its upper end.
    """

    name: Literal["window"] = "window"
    low: Fraction
    high: Fraction = 1.0

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low must be at most `high` ({self.high}), got {self.low}")


Method = Annotated[KMeans | Window, Field(discriminator="name")]
DEFAULT = KMeans()


def _fits(options: SimpleNamespace) -> None:
    if options.budget == 13:
        raise OptionError("budget", "must be another number, got 13", hint="12")
    if isinstance(options.method, KMeans) and options.method.n_clusters > options.budget:
        clusters = options.method.n_clusters
        raise OptionError("method.n_clusters", f"must be at most `budget`, got {clusters}")


@stage(version=1, scope="set", reads=["messages"], check=_fits)
def grouped(
    ctx: Context,
    rows: Records,
    *,
    budget: Count = 9,
    unit: Literal["rows", "tokens"] = "rows",
    band: FractionRange = (0.2, 0.8),
    names: Annotated[tuple[str, ...], NonEmpty] = ("a",),
    method: Method = DEFAULT,
    model: LanguageModel | None = None,
    files: InputFiles | None = None,
) -> pl.DataFrame:
    """Keep some rows.

    Args:
        rows: The rows to
            choose from.
        budget: How much to keep.
        method: How to choose.

    Returns:
        A verdict for each row.
    """
    return rows.select(pl.lit(None, pl.String).alias("drop_reason"))


def mistakes(folder: Path, options: str) -> str:
    pool(folder / "rows.txt", 4)
    text = f"""\
name: lines
stages:
  a: {{uses: toy.load, with: {{path: rows.txt}}}}
  chosen:
    needs: a
    uses: {HERE}.grouped
    with:
"""
    (folder / "r.yaml").write_text(toys(text) + textwrap.indent(textwrap.dedent(options), "      "))
    with pytest.raises(UserError) as caught:
        check(plan(Recipe.load(str(folder / "r.yaml")), Store(folder / "store")))
    return str(caught.value).replace(str(folder), "").replace(f"{HERE}.", "")


@pytest.mark.parametrize(
    ("options", "line", "expected"),
    [
        ("unit: rows\nbudget: 0\n", 9, "budget must be at least 1, got 0"),
        ("unit: rows\nbudgte: 4\n", 9, "unknown option 'budgte'"),
        ("unit: row\n", 8, "unit must be 'rows' or 'tokens', got 'row'"),
        ("unit: rows\nbudget: 13\n", 9, "budget must be another number, got 13"),
        ("budget: 4\nband: [0.5, 0.4]\n", 9, "band must be increasing, got [0.5, 0.4]"),
        ("budget: 4\nband:\n  - 0.5\n  - 1.5\n", 9, "band[1] must be between 0 and 1"),
        ("names: []\n", 8, "names must be of at least 1 element, got []"),
        ("method: kmean\n", 8, "method: there is no 'kmean'"),
        ("method:\n  name: kmean\n", 8, "method: there is no 'kmean'"),
        ("method:\n  n_clusters: 3\n", 8, "method must say which: {name: ...}"),
        ("method:\n  name: kmeans\n  n_clusters: 0\n", 10, "n_clusters must be at least 1, got 0"),
        (
            "method:\n  name: kmeans\n  clusters: 1\n",
            10,
            "method (kmeans) has no option 'clusters'",
        ),
        ("method:\n  name: kmeans\n  low: 0.1\n", 10, "method (kmeans) has no option 'low'"),
        ("method:\n  name: kmeans\n  n_clusters: 12\n", 10, "must be at most `budget`, got 12"),
        ("budget: 3\n", 7, "method.n_clusters must be at most `budget`, got 8"),
        ("method:\n  high: 0.5\n  name: window\n", 8, "the option 'method.low' is missing"),
        ("method: window\n", 8, "the option 'method.low' is missing"),
        (
            "method:\n  high: 0.2\n  low: 0.4\n  name: window\n",
            10,
            "method.low must be at most `high` (0.2), got 0.4",
        ),
        ("budget: 20\nn_clusters: 4\n", 9, "'n_clusters' is an option of method: kmeans"),
        ("model: m\n", 8, "there is no model 'm'"),
        ("budget: 4\ndevice: cpu\n", 9, "unknown option 'device'"),
        ("files: 3\n", 8, "files must be a path or a list of paths, got 3"),
        ("budget: 2024-01-01\n", 8, "budget must be a plain, finite value"),
    ],
)
def test_a_mistake_is_at_the_options_own_line(
    tmp_path: Path, options: str, line: int, expected: str
) -> None:
    first = mistakes(tmp_path, options).splitlines()[0]
    assert first.startswith(f"/r.yaml:{line}: chosen (grouped): ")
    assert expected in first


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (int, "integer"),
        (bool, "true or false"),
        (Count, "integer >= 1"),
        (PositiveFloat, "number > 0"),
        (NonNegativeFloat | None, "number >= 0 | null"),
        (Fraction, "number between 0 and 1"),
        (Range, "[integer >= 1, integer >= 1], increasing"),
        (Literal["a", "b"], "'a' | 'b'"),
        (Literal["a", 1, None], "'a' | 1 | null"),
        (tuple[str, ...], "list of text"),
        (Annotated[tuple[int, ...], NonEmpty], "non-empty list of integer"),
        (tuple[int | str, ...], "list of (integer | text)"),
        (dict[str, float], "mapping of text to number"),
        (InputFiles, "path, list or glob"),
        (InputFiles | None, "path, list or glob | null"),
        (LanguageModel, "language model"),
        (tuple[LanguageModel, ...], "list of language model"),
        (Embedder | None, "embedder | null"),
        (Method, "'kmeans' | 'window'"),
        (Method | None, "'kmeans' | 'window' | null"),
        (Annotated[int, Field(gt=0, lt=5)], "integer > 0 and < 5"),
    ],
)
def test_types_in_a_recipes_words(annotation: Any, expected: str) -> None:
    assert type_text(annotation) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null"),
        (True, "true"),
        ("rows", "rows"),
        ("1", "'1'"),
        (1e-4, "0.0001"),
        ((0.5, 1), "[0.5, 1]"),
        ((), "[]"),
        ({"a": (1,)}, "{a: [1]}"),
        (KMeans(), "{name: kmeans}"),
        (KMeans(n_clusters=3), "{name: kmeans, n_clusters: 3}"),
    ],
)
def test_defaults_as_a_recipe_has_them(value: Any, expected: str) -> None:
    assert yaml_text(value) == expected


def test_a_stage_documents_its_options_and_those_of_its_methods() -> None:
    entry = stage_entry(find(f"{HERE}.grouped"))
    assert json.loads(json.dumps(entry)) == entry
    assert entry["edges"]["rows"] == {"kind": "records", "doc": "The rows to choose from."}
    assert entry["options"]["budget"] == {
        "type": "integer >= 1", "default": "9", "required": False, "doc": "How much to keep."
    }  # fmt: skip
    method = entry["options"]["method"]
    assert (method["default"], method["doc"]) == ("{name: kmeans}", "How to choose.")
    assert list(method["methods"]) == ["kmeans", "window"]
    kmeans = method["methods"]["kmeans"]
    assert kmeans["doc"] == "k-means on the vectors (Lloyd 1982).\n\nMore about it."
    assert kmeans["options"]["n_clusters"]["doc"] == "How many clusters,\n\nchosen once for all."
    low = method["methods"]["window"]["options"]["low"]
    assert (low["required"], low["default"]) == (True, None)
    assert "Args:" not in entry["doc"]


def test_the_page_of_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    page = called("stages", f"{HERE}.grouped").stdout
    assert page.rstrip() == stage_page(stage_entry(find(f"{HERE}.grouped"))).rstrip()
    options = page.split("\noptions\n")[1]
    assert options == textwrap.indent(
        textwrap.dedent("""\
            budget: integer >= 1  (default 9)
                How much to keep.
            unit: 'rows' | 'tokens'  (default rows)
            band: [number between 0 and 1, number between 0 and 1], increasing  (default [0.2, 0.8])
            names: non-empty list of text  (default [a])
            method: 'kmeans' | 'window'  (default {name: kmeans})
                How to choose.
              kmeans: k-means on the vectors (Lloyd 1982).
                n_clusters: integer >= 1  (default 8)
                    How many clusters,
                    chosen once for all.
                tolerance: number > 0  (default 0.0001)
                    When to stop.
              window: A window over the sorted scores.
                low: number between 0 and 1  (required)
                    Its lower end.
                high: number between 0 and 1  (default 1.0)
                    Its upper end.
            model: language model | null  (default null)
            files: path, list or glob | null  (default null)
            """),
        "  ",
    )
    assert "Keep some rows.\n\nReturns:\n    A verdict for each row.\n\ninputs\n" in page


@pytest.mark.parametrize("name", available())
def test_the_example_of_a_stage_can_be_copied_from_its_page(name: str) -> None:
    page = stage_page(stage_entry(find(name)))
    assert "```" not in page
    assert ">>>" not in page
    assert "\nExample:" not in page
    body, heading, copied = page.partition("\nexample, below `stages:` of a recipe\n")
    body, heading, copied = (body, heading, copied) if heading else page.partition("\nexample\n")
    text = copied if copied.lstrip().startswith("models:") else f"stages:\n{copied}"
    steps = yaml.safe_load(text)["stages"]
    assert name in [step["uses"] for step in steps.values()]


def test_a_page_says_once_what_methods_have_in_common() -> None:
    for name in available():
        entry = stage_entry(find(name))
        lines = stage_page(entry).splitlines()
        assert len(lines) < 320, name
        for option in entry["options"].values():
            for method, group in option.get("methods", {}).items():
                section = _section(lines, method)
                for inner in group["options"]:
                    assert re.search(rf"\b{inner}\b", section), (name, method, inner)


def _section(lines: list[str], method: str) -> str:
    """The lines of a method on a page."""
    start = next(i for i, line in enumerate(lines) if re.match(rf"    {method}(: |$)", line))
    inside = itertools.takewhile(lambda line: line.startswith("     "), lines[start + 1 :])
    return "\n".join(inside)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A.\n\nExample:\n    ```yaml\n    a: 1\n    ```\n\n    >>> 1\n    1\n", ("A.", "a: 1")),
        ("A.\n\nExample::\n\n    a:\n      b: 1\n\nC.", ("A.\n\nC.", "a:\n  b: 1")),
        ("A.\n\nExample:\n    >>> 1\n    1\n\nC.", ("A.\n\nC.", "")),
        ("A: see Example: b.", ("A: see Example: b.", "")),
    ],
)
def test_examples_in_docstrings(text: str, expected: tuple[str, str]) -> None:
    assert split_example(text) == expected


def test_no_page_shows_pythons_own_spelling() -> None:
    for entry in json.loads(called("stages", "--json").stdout):
        text = json.dumps(entry["options"])
        for spelling in (
            "<class",
            "typing.",
            "Annotated[",
            "NoneType",
            "(default None)",
            "pipeline.",
        ):
            assert spelling not in text, (entry["name"], spelling)


DOCSTRING = """Do a thing.

    More text: with a colon.

    Args:
        first: One line.
        second (int): Two
            lines: the second with a colon.

            A paragraph of its own.

        *rest: After a blank line.
        url: Of the form http://x.y.
    Returns:
        first: no argument.

    Attributes:
        field: A field.

    The end.
    """


def test_docstrings_in_parts() -> None:
    doc = parse(DOCSTRING)
    assert doc.summary == "Do a thing."
    assert doc.arguments == {
        "first": "One line.",
        "second": "Two lines: the second with a colon.\n\nA paragraph of its own.",
        "rest": "After a blank line.",
        "url": "Of the form http://x.y.",
        "field": "A field.",
    }
    assert doc.text == textwrap.dedent("""\
        Do a thing.

        More text: with a colon.

        Returns:
            first: no argument.

        The end.""")
    assert (parse("").text, parse("").arguments, parse("Args:").arguments) == ("", {}, {})


EDGES = [
    (
        "select.diverse",
        "{method: mutual_information, budget: 3}",
        "must have an input for 'target'",
    ),
    ("select.diverse", "{method: conditional_gain, budget: 3}", "must have an input for 'held'"),
    (
        "score.judge",
        "{model: m, method: {name: gap, aspect: quality}}",
        "must have an input for 'reference_answers'",
    ),
    ("generate.respond", "{models: [m], method: context}", "must have an input for 'documents'"),
    ("select.target", "{method: nearest, budget: 3}", "must have an input for 'target'"),
    ("select.target", "{method: gaps, budget: 3}", "must have an input for 'held'"),
    ("generate.backtranslate", "{model: m, method: humback}", "must have an input for 'documents'"),
]


@pytest.mark.parametrize(("stage", "options", "what"), EDGES)
def test_an_input_that_a_method_needs_is_missed_before_anything_runs(
    stage: str, options: str, what: str, tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text(
        "name: r\n"
        "models:\n"
        f"  m: {{engine: transformers, model: {ROOT / 'data/models/tinylm'}}}\n"
        f"  e: {{engine: sentence-transformers, model: {ROOT / 'data/models/potion-base-4m'}}}\n"
        "stages:\n"
        f"  a: {{uses: load.records, with: {{path: {ROOT / 'data/samples/selfbehave.jsonl.gz'}, "
        "source: a, license: MIT}}\n"
        "  v: {uses: embed.text, needs: a, with: {embedder: e}}\n"
        "  b:\n"
        f"    uses: {stage}\n"
        "    needs: {rows: v}\n"
        f"    with: {options}\n"
    )
    with pytest.raises(RecipeErrors) as caught:
        Recipe.load(str(tmp_path / "r.yaml"))
    assert what in str(caught.value)
    assert "method" in str(caught.value)


MISPLACED = [
    ("n_clusters: 4\nmethod: kmeans\n", "move it into method: {name: kmeans, n_clusters: ...}"),
    ("n_clusters: 4\n", "move it into method: {name: kmeans, n_clusters: ...}"),
    ("n_clusters: 4\nmethod: {name: window, low: 0.1}\n", "write method: {name: kmeans, "),
    ("low: 0.1\nmethod: window\n", "move it into method: {name: window, low: ...}"),
    ("method: {name: kmeans, budget: 9}\n", "write 'budget' beside 'method', not inside it"),
    ("method: {name: window, lov: 0.1}\n", "did you mean 'low', which is missing?"),
]


@pytest.mark.parametrize(("options", "hint"), MISPLACED)
def test_a_misplaced_option_is_one_mistake_with_its_place(
    tmp_path: Path, options: str, hint: str
) -> None:
    text = mistakes(tmp_path, options)
    assert f"try: {hint}" in text
    assert text.endswith("\n1 mistake in the recipe")


def test_all_that_is_missing_in_a_group_is_reported(tmp_path: Path) -> None:
    lines = mistakes(tmp_path, "budget: 0\nmethod: {name: window}\nunit: row\n").splitlines()
    positions = [int(line.split(":")[1]) for line in lines if line.startswith("/r.yaml")]
    assert positions == [8, 9, 10]


def test_a_nested_option_is_shown_where_it_belongs() -> None:
    raw = {"model": "m", "num_rows": 9, "classification_num_shots": [1, 1]}
    models = {"m": LanguageModel(model="any")}
    _, (problem,) = bind(find("generate.self_instruct"), raw, models, ROOT)
    assert problem.hint == (
        "move it into method: {name: self-instruct, "
        "instances: {name: examples, classification_num_shots: ...}}"
    )


FORMER = [
    (method, name)
    for method in available()
    for stages, names in renamed._rows()
    if renamed._is_among(method, stages)
    for name in names
]


def test_the_changelog_names_what_former_options_are_called_now() -> None:
    assert len(FORMER) > 150
    for method, name in FORMER:
        assert str(renamed_hint(method, name)).startswith("renamed (see CHANGELOG.md): "), name
    assert renamed_hint("select.top", "minimum") == "renamed (see CHANGELOG.md): min_score"
    assert renamed_hint("select.random", "minimum") is None
    assert renamed_hint("report.ablation", "warmup") == "renamed (see CHANGELOG.md): warmup_ratio"
    assert renamed_hint("dedup.exact", "twin") is None, "evidence is no option"


@pytest.mark.parametrize("raw", [{"count": 9}, {"num_rows": 9, "preset": "alpaca"}])
def test_a_former_option_is_one_mistake(raw: dict[str, Any]) -> None:
    models = {"m": LanguageModel(model="any")}
    _, (problem,) = bind(find("generate.self_instruct"), raw | {"model": "m"}, models, ROOT)
    assert problem.what.startswith("unknown option")
    assert str(problem.hint).startswith("renamed (see CHANGELOG.md): ")
