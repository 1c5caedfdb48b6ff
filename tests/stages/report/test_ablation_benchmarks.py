"""Benchmarks in an ablation: each training is put through them, and compared by the same rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import LanguageModel
from pipeline.recipe.recipe import Recipe
from stages._benchmarks import run as run_module
from stages.evaluate.benchmarks import benchmarks
from stages.report._benchmark_page import benchmark_section
from stages.report._benchmark_scores import Benchmarks, as_sets, divided, summed_up
from stages.report._comparison import compare_all
from stages.report.ablation import ablation
from tests.stages.report.test_ablation import SMALL, records
from tests.support.rows import exam

pytest.importorskip("lm_eval")

COPIED = " ".join(f"pine{i}" for i in range(5, 14)) + " and so on and on"
QUIZ = exam(
    "quiz",
    [
        {"question": f"Number {n}?{COPIED if n == 3 else ''}", "A": "one", "B": "two",
         "answer": "AB"[n % 2]}
        for n in range(4)
    ],
)  # fmt: skip


def run(loss: float, rows: list[float], scores: list[float]) -> dict[str, Any]:
    return {"by_set": {"talks": loss}, "rows_loss": rows, "benchmarks": {"quiz": scores}}


def test_a_benchmark_is_compared_as_a_set_whose_loss_is_the_share_of_wrong_answers() -> None:
    right, wrong = [1.0] * 40, [0.0] * 39 + [1.0]
    runs = {
        "good": [run(2.0, [2.0, 2.1], right), run(2.1, [2.1, 2.0], right)],
        "bad": [run(2.0, [2.0, 2.1], wrong), run(2.1, [2.1, 2.0], wrong)],
    }
    eval_rows = pl.DataFrame({"eval_set": ["talks"] * 2, "tokens": [1, 1]})
    losses, others = divided(compare_all(*_sets(runs, eval_rows)))
    assert [(c["eval_rows"], c["difference"]) for c in losses] == [("talks", 0.0)]
    (other,) = others
    assert (other["benchmark"], other["verdict"]) == ("quiz", "lower")
    assert other["difference"] == pytest.approx(-39 / 40)
    # One correction for both: the p value of the benchmark counts twice.
    assert other["p_corrected"] == min(1.0, 2 * other["p"])


def _sets(runs: Any, eval_rows: pl.DataFrame) -> Any:
    measured, rows = as_sets(runs, eval_rows)
    return measured, ["good", "bad"], rows, False


def test_scores_of_an_arm_are_over_documents_with_and_without_contaminated_ones() -> None:
    of = summed_up([run(2.0, [], [1, 0, 1, 1]), run(2.0, [], [1, 0, 0, 1])], {"quiz": {3}})["quiz"]
    assert (of["value"], of["clean"]["value"], of["contaminated"]["value"]) == (0.625, 0.5, 1.0)
    assert (of["clean"]["documents"], of["contaminated"]["documents"]) == (3, 1)
    assert of["spread"] == pytest.approx(0.25 / 2**0.5)
    assert summed_up([run(2.0, [], [1, 0])], {"quiz": set()})["quiz"]["spread"] is None


def test_benchmarks_that_must_be_generated_are_named(tmp_path: Path) -> None:
    sums = exam("sums", [{"question": "1 + 1?", "answer": "#### 2"}])
    both = Benchmarks.of(pl.concat([sums, QUIZ]), 0, None, tmp_path)
    assert [task.name for task in both.tasks] == ["quiz"]
    assert "must be generated" in both.left_out["sums"]
    with pytest.raises(UserError, match="multiple choice, got none"):
        Benchmarks.of(sums, 0, None, tmp_path)
    with pytest.raises(UserError, match="multiple choice, got none"):
        Benchmarks.of(QUIZ[:0], 0, None, tmp_path)


def test_documents_of_the_pool_are_contaminated_in_all_arms_alike(tmp_path: Path) -> None:
    asked = Benchmarks.of(QUIZ, 0, None, tmp_path)
    copy = records("elm", 2, f"It is pine4 {COPIED} for ever")
    described = asked.described([records("oak", 3), copy])["quiz"]
    number = [d["texts"][0] for d in asked.tasks[0].docs].index(f"Number 3?{COPIED}")
    assert (described["contaminated"], described["documents"]) == ([number], 4)
    assert described["chance"] == 0.5
    first = Benchmarks.of(QUIZ, 0, 2, tmp_path)
    assert first.described([copy])["quiz"]["documents"] == 2
    assert len({asked.digest, first.digest, Benchmarks.of(QUIZ, 1, None, tmp_path).digest}) == 3


@pytest.mark.proof
def test_every_training_is_put_through_benchmarks(tmp_path: Path, tinylm: LanguageModel) -> None:
    pool = records("pine", 40)
    edges = (pool, {"selected": pool[:8]}, {"eval_rows": records("oak", 6)})
    plain, ctx = Context.scratch(tmp_path / "plain"), Context.scratch(tmp_path / "asked")
    ablation(plain, *edges, model=tinylm, **SMALL)
    ablation(ctx, *edges, QUIZ, model=tinylm, **SMALL)
    without, report = (json.loads((c.files / "ablation.json").read_text()) for c in (plain, ctx))
    # The losses are those of an ablation without benchmarks.
    assert [r["rows_loss"] for r in report["runs"]] == [r["rows_loss"] for r in without["runs"]]
    assert [c["difference"] for c in report["comparisons"]] == [
        c["difference"] for c in without["comparisons"]
    ]
    assert report["design"]["comparisons"] == 2
    asked = report["benchmarks"]
    assert set(asked["arms"]) == {"selected", "random"}
    # The untrained model's scores are those of evaluate.benchmarks.
    alone = Context.scratch(tmp_path / "alone")
    benchmarks(alone, QUIZ, model=tinylm)
    scores = json.loads((alone.files / "benchmarks.json").read_text())["columns"]["model"]["quiz"]
    acc = scores["metrics"]["acc"]
    base = asked["base"]["quiz"]
    assert (base["value"], base["stderr"]) == (acc["value"], acc["stderr"])
    page = (ctx.files / "ablation.md").read_text()
    assert "## Benchmarks" in page
    assert "(chance)" in page
    assert max(len(line) for line in page.splitlines() if not line.startswith("|")) <= 100
    assert benchmark_section(report, ["selected", "random"])[1] in page


def test_a_missing_harness_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "exams" in str(Recipe.load("leaderboard", profile="tiny").steps["board_10"].needs)
    every = run_module.importlib.util.find_spec

    def without(name: str, *more: Any) -> Any:
        return None if name == "lm_eval" else every(name, *more)

    monkeypatch.setattr(run_module.importlib.util, "find_spec", without)
    with pytest.raises(UserError, match="lm-evaluation-harness is not installed"):
        Recipe.load("leaderboard", profile="tiny")
