"""What a tuned model says more than its base: nothing for the same model, what was planted else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from pipeline.context import Context
from pipeline.models import LanguageModel
from stages.export.parquet import parquet
from stages.report._contrastive import Contrast
from stages.report._exploration import Iterative, Static
from stages.report.novelty import auc, novelty
from stages.train.sft import sft
from tests.support.options import problems
from tests.support.rows import DATA, conversations, json_lines, sample

ASKED = conversations([("Say something.",), ("Write a sentence.",)])


def lines(ctx: Context, name: str) -> list[dict[str, Any]]:
    return json_lines(ctx.files / name)


def test_a_score_is_the_difference_of_plausible_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    tuned, base = (torch.randn(3, 50, generator=generator) * 3 for _ in range(2))
    scores = Contrast(0.1, 1.0).scores(tuned, base)
    for row, p, q in zip(
        scores, tuned.double().softmax(-1), base.double().softmax(-1), strict=True
    ):
        plausible = p >= 0.1 * p.max()
        assert torch.equal(torch.isfinite(row), plausible)
        assert torch.allclose(row[plausible], (p / q).log()[plausible])
    same = Contrast(0.1, 1.0).scores(tuned, tuned)
    assert set(same.flatten().tolist()) == {0.0, -np.inf}


def test_the_same_model_has_nothing_new(ctx: Context, tinylm: LanguageModel) -> None:
    rows = conversations([("Name a sea.", "The North Sea."), ("Hm?", "")]).with_columns(new=True)
    novelty(ctx, ASKED, rows, tuned=tinylm, base=tinylm, num_samples=3, max_tokens=4, planted="new")
    samples = lines(ctx, "samples.jsonl")
    assert [(s["kind"], s["difference"]) for s in samples] == [
        ("contrastive", 0.0), ("contrastive", 0.0), ("contrastive", 0.0),
        ("plain", 0.0), ("plain", 0.0), ("plain", 0.0),
    ]  # fmt: skip
    assert {s["prompt"].split("\n")[1] for s in samples} == {"Say something.", "Write a sentence."}
    ranked = lines(ctx, "rows.jsonl")
    assert [line["difference"] for line in ranked] == [0.0, None]
    report = json.loads((ctx.files / "novelty.json").read_text())
    assert (report["auc"], report["rows_not_scored"]) == (None, 1)
    assert (ctx.files / "novelty.svg").read_text().startswith("<svg")
    assert "planted rows" in (ctx.files / "novelty.md").read_text()


def test_ties_count_half() -> None:
    assert auc([1.0], [1.0, 0.0]) == 0.75
    assert auc([], [1.0]) is None


def test_options_that_do_not_go_together() -> None:
    wrong = problems(
        "report.novelty", tuned="model", base="model", num_samples=3,
        method={"name": "iterative", "rounds": 4},
    )  # fmt: skip
    assert "must be at most num_samples (3), got 4" in str(wrong)
    served = LanguageModel(model="x", engine="openai", base_url="http://localhost/v1")
    assert "engine: transformers, got openai" in str(
        problems("report.novelty", served, tuned="model", base="model")
    )


GERMAN = {
    word
    for row in json_lines(DATA / "seeds/german.jsonl")
    for word in re.findall(r"\w{3,}", row["output"].lower())
}


def is_german(text: str) -> bool:
    """At least half of its longer words are planted ones."""
    words = re.findall(r"\w{3,}", text.lower())
    return 2 * sum(word in GERMAN for word in words) > len(words)


@pytest.mark.proof
def test_planted_rows_are_found(ctx: Context, tinylm: LanguageModel, tmp_path: Path) -> None:
    """One row in a hundred is German: the contrast says so more often than the model itself."""
    answers = (m[-1]["content"] for m in sample("self_instruct.jsonl.gz")["messages"])
    english = [a for a in answers if 15 < len(a) < 60 and a.isascii() and "\n" not in a][:297]
    planted = [row["output"] for row in json_lines(DATA / "seeds/german.jsonl")[:3]]
    asked = ["Say something.", "Write a sentence."]
    rows = conversations([(asked[i % 2], a) for i, a in enumerate([*planted, *english])])
    parquet(ctx, rows)
    trained = Context.scratch(tmp_path / "trained")
    sft(
        trained, ctx.files, model=tinylm, max_steps=36, learning_rate=1e-3, warmup_ratio=0.1,
        lr_scheduler_type="constant", gradient_accumulation_steps=2, max_length=256,
    )  # fmt: skip
    tuned = LanguageModel(model=str(trained.files / "model"))
    last = pl.col("messages").list.last().struct.field("content")
    rows = rows.with_columns(planted=last.is_in(planted))
    counted = {}
    for method in (Static(), Iterative(rounds=2, learning_rate=1e-3)):
        report = Context.scratch(tmp_path / method.name)
        novelty(
            report, ASKED, rows, tuned=tuned, base=tinylm, method=method, num_samples=48,
            max_tokens=12, planted="planted",
        )  # fmt: skip
        counts = {"contrastive": 0, "plain": 0}
        for line in lines(report, "samples.jsonl"):
            counts[line["kind"]] += is_german(line["text"])
        counted[method.name] = counts
        result = json.loads((report.files / "novelty.json").read_text())
        assert result["auc"] > 0.8, result
        mean = {name: of["mean"] for name, of in result["differences"].items()}
        assert mean["contrastive"] > mean["plain"]
    print(counted)
    for counts in counted.values():
        assert counts["contrastive"] > 2 * counts["plain"] + 2, counted
