"""dedup.signatures: held rows without their texts decide as held rows do."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import Exit, RecipeErrors, UserError
from pipeline.recipe.recipe import Recipe
from pipeline.store.artifact import Artifact
from pipeline.store.parquet import read_frame
from schemas.records import RECORD_COLUMNS
from stages._text.tokens import shingle_sets
from stages.dedup.jaccard import jaccard
from stages.dedup.minhash import minhash
from stages.dedup.signatures import signatures
from tests.bench.pools import edited_pool, records
from tests.support.near_duplicates import Stage
from tests.support.rows import DATA, conversations, sample
from tests.support.running import artifact, counts, run, states

both = pytest.mark.parametrize("stage", [jaccard, minhash])


def halves() -> tuple[pl.DataFrame, pl.DataFrame]:
    turns = sample("self_instruct.jsonl.gz").head(400)["messages"].to_list()
    texts = ["\n".join(message["content"] for message in messages) for messages in turns]
    rows = records([*edited_pool(texts, 2000, seed=2), "", "?"])
    return rows[::2], rows[1::2]


def written(ctx: Context, rows: pl.DataFrame, **options: object) -> Path:
    assert signatures(ctx, rows, **options) is None
    return ctx.files


@both
@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_verdicts_are_those_of_held_rows(ctx: Context, stage: Stage, threshold: float) -> None:
    rows, held = halves()
    by_rows = stage(ctx, rows, held, threshold=threshold)
    by_files = stage(ctx, rows, written(ctx, held), threshold=threshold)
    assert by_rows.equals(by_files)
    kept = [json.loads(cause)["duplicate_of"] for cause in by_rows["evidence"].drop_nulls()]
    assert len(set(kept) & set(held["id"])) > 50
    assert len(set(kept) & set(rows["id"])) > 5


def test_the_files_hold_ids_sets_and_how_they_were_computed(ctx: Context) -> None:
    rows = conversations([("one two three four", "five"), ("one",), ("", ""), ("a b a b a b",)])
    folder = written(ctx, rows, ngram_size=2, field="prompt")
    table = read_frame(folder / "signatures.parquet")
    assert table.schema == {"id": pl.String, "shingles": pl.List(pl.UInt64)}
    assert table["id"].to_list() == rows["id"].to_list()
    first = pl.col("messages").list.first().struct.field("content")
    sets = shingle_sets(rows.select(first.alias("t"))["t"], 2)
    assert table["shingles"].list.len().to_list() == sets.lengths.tolist()
    assert table["shingles"].explode().drop_nulls().to_list() == sets.values.tolist()
    about = json.loads((folder / "signatures.json").read_text())
    assert about == {"format": 2, "field": "prompt", "view": "calls", "ngram": 2, "rows": 4}


@both
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ngram_size": 4}, "ngram_size 5, got ngram_size 4"),
        ({"field": "prompt"}, "field 'conversation', got field 'prompt'"),
    ],
)
def test_signatures_of_other_options_are_refused(
    ctx: Context, stage: Stage, options: dict, message: str
) -> None:
    rows = conversations([("one two three four five six",)])
    with pytest.raises(UserError, match=message) as caught:
        stage(ctx, rows, written(ctx, rows, **options))
    assert "dedup.signatures" in (caught.value.hint or "")


@both
def test_other_files_are_refused(ctx: Context, stage: Stage) -> None:
    (ctx.files / "answers.txt").write_text("forty-two")
    with pytest.raises(UserError, match=r"must be rows or the files of dedup.signatures"):
        stage(ctx, conversations([("one",)]), ctx.files)


@both
def test_signatures_of_nothing_hold_nothing_back(ctx: Context, stage: Stage) -> None:
    rows = conversations([("one two three",), ("",)])
    for held in (pl.DataFrame(schema=RECORD_COLUMNS), conversations([("", "")])):
        verdict = stage(ctx, rows, written(ctx, held))
        assert verdict["drop_reason"].null_count() == len(rows)


def halved_recipe(held: str, **with_: object) -> Recipe:
    pool = {"path": str(DATA / "samples/selfbehave.jsonl.gz"), "source": "x", "license": "MIT"}
    return Recipe.of(
        "held",
        {
            "pool": {"uses": "load.records", "with": pool},
            "before": {"uses": "select.random", "needs": "pool", "with": {"budget": 700}},
            "marked": {"uses": "dedup.signatures", "needs": "before", "with": with_},
            "new": {
                "uses": "dedup.jaccard",
                "needs": {"rows": "pool", "held": held},
                "with": {"threshold": 0.6, "order_by": "origin"},
            },
        },
    )


def dropped(wired: Recipe, store: Path) -> list[dict]:
    new: Artifact = artifact(wired, store, "new")
    return new.read("dropped", ["id", "drop_reason", "evidence"]).to_dicts()


def test_a_recipe_connects_either(tmp_path: Path) -> None:
    by_rows, by_files = halved_recipe("before"), halved_recipe("marked")
    assert run(by_rows, tmp_path / "rows") is Exit.DONE
    assert run(by_files, tmp_path / "files") is Exit.DONE
    rows = dropped(by_files, tmp_path / "files")
    assert rows == dropped(by_rows, tmp_path / "rows")
    assert len(rows) > 700
    assert counts(by_files, tmp_path / "files")["new"][0] == 1221
    assert set(states(by_files, tmp_path / "files").values()) == {"cached"}


def test_a_run_refuses_signatures_of_other_options(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ngram_size 3"):
        run(halved_recipe("marked", ngram_size=3), tmp_path / "store")


def test_what_is_neither_rows_nor_files_is_reported_before_the_run() -> None:
    pool = {"path": str(DATA / "samples/rust_book.jsonl.gz"), "source": "x", "license": "MIT"}
    documents = {"uses": "load.documents", "with": pool}
    wired = {
        "texts": documents,
        "pool": {
            "uses": "load.records",
            "with": pool | {"path": str(DATA / "samples/selfbehave.jsonl.gz")},
        },
        "new": {"uses": "dedup.jaccard", "needs": {"rows": "pool", "held": "texts"}},
    }
    with pytest.raises(RecipeErrors) as caught:
        Recipe.of("held", wired)
    assert "needs records or files for 'held', but 'texts' gives documents" in str(caught.value)
