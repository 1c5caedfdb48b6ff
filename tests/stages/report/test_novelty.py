"""What a tuned model says more than its base: nothing for the same model, what was planted else."""

from __future__ import annotations

import json
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
from stages.report._exploration import Iterative
from stages.report.novelty import _page, _summary, auc, novelty
from stages.train.sft import sft
from tests.support.options import problems
from tests.support.rows import DATA, conversations, json_lines, sample

ASKED_ONCE = conversations([("Say something.",)])
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


def tuned_on(rows: pl.DataFrame, model: LanguageModel, steps: int, folder: Path) -> LanguageModel:
    """A model after a few steps on rows."""
    shards, trained = Context.scratch(folder / "shards"), Context.scratch(folder / "trained")
    parquet(shards, rows)
    sft(
        trained, shards.files, model=model, max_steps=steps, learning_rate=1e-3, warmup_ratio=0.1,
        lr_scheduler_type="constant", gradient_accumulation_steps=2, max_length=256,
    )  # fmt: skip
    return LanguageModel(model=str(trained.files / "model"))


@pytest.mark.proof
def test_planted_rows_are_told_from_the_others(tinylm: LanguageModel, tmp_path: Path) -> None:
    """One row in a hundred is German, and the base knows what the other rows are like.

    The contrast writes texts of larger differences than the tuned model does by itself.
    """
    answers = (m[-1]["content"] for m in sample("self_instruct.jsonl.gz")["messages"])
    english = [a for a in answers if 15 < len(a) < 60 and a.isascii() and "\n" not in a][:297]
    german = [row["output"] for row in json_lines(DATA / "seeds/german.jsonl")]
    planted = [text for text in german if text.startswith("Die ")]
    assert len(planted) == 3
    rows = conversations([("Say something.", a) for a in [*planted, *english]])
    known = conversations([("Say something.", a) for a in english])
    base = tuned_on(known, tinylm, 14, tmp_path / "base")
    tuned = tuned_on(rows, base, 18, tmp_path / "tuned")
    last = pl.col("messages").list.last().struct.field("content")
    report = Context.scratch(tmp_path / "report")
    novelty(
        report, ASKED_ONCE, rows.with_columns(planted=last.is_in(planted)), tuned=tuned,
        base=base, method=Iterative(rounds=2, learning_rate=1e-3), num_samples=20, max_tokens=4,
        alpha=0.01, planted="planted",
    )  # fmt: skip
    result = json.loads((report.files / "novelty.json").read_text())
    mean = {name: of["mean"] for name, of in result["differences"].items()}
    assert result["auc"] > 0.95, result
    assert mean["contrastive"] > 1.5 * mean["plain"]


def test_the_page_shows_what_the_contrast_wrote() -> None:
    """The texts themselves, the newest first, those of the tuned model alone by themselves."""
    samples = [
        {"kind": kind, "round": 0, "text": f"{kind} `text`\n{n}", "difference": float(n)}
        for kind in ("plain", "contrastive")
        for n in range(12)
    ]
    samples.append({"kind": "contrastive", "round": 0, "text": " ", "difference": 99.0})
    page = _page(_summary(samples, None, planted=False), samples)
    contrast, plain = page.split("## Texts by the contrast of the models")[1].split("## Texts of")
    shown = [f"- {n:.3f}: `contrastive 'text' {n}`" for n in range(11, 2, -1)]
    assert [line for line in contrast.splitlines() if line.startswith("- ")] == [
        "- 99.000: (nothing)", *shown,
    ]  # fmt: skip
    assert "- 11.000: `plain 'text' 11`" in plain
    assert "contrastive 'text'" not in plain
