"""export.parquet: what others read, what never changes, and what is left out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from stages.export.parquet import parquet
from tests.support.options import problems
from tests.support.rows import frame, record, self_instruct


@pytest.fixture(scope="module")
def pool() -> pl.DataFrame:
    """Real rows, some of which have no answer, with two added columns."""
    rows = self_instruct(700)
    length = pl.col("messages").list.last().struct.field("content").str.len_chars()
    return rows.with_columns(length.cast(pl.Int32).alias("tokens"), pl.lit(0.5).alias("ifd"))


def export(folder: Path, rows: pl.DataFrame, **options: Any) -> tuple[Path, pl.DataFrame]:
    ctx = Context.scratch(folder)
    return ctx.files, parquet(ctx, rows, **options)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def read(folder: Path, split: str) -> pl.DataFrame:
    files = sorted((folder / "data").glob(f"{split}-*.parquet"))
    return pl.concat([pl.read_parquet(path) for path in files])


def test_datasets_reads_folder_and_files(tmp_path: Path, pool: pl.DataFrame) -> None:
    import datasets

    files, result = export(
        tmp_path / "a", pool, validation_fraction=0.1, rows_per_shard=300, columns=("ifd",)
    )
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset(str(files), cache_dir=cache)
    assert set(loaded) == {"train", "validation"}
    assert loaded["train"].column_names == ["messages", "id", "sources", "licenses", "ifd"]
    counts = dict(result["split"].drop_nulls().value_counts().iter_rows())
    assert {name: len(part) for name, part in loaded.items()} == counts
    plain = pool["messages"].list.eval(
        pl.struct(pl.element().struct.field(name) for name in ("role", "content"))
    )
    kept = dict(zip(pool["id"], plain.to_list(), strict=True))
    for row in loaded["train"]:
        assert row["messages"] == kept[row["id"]]
        assert row["sources"] == ["sample"]
    pattern = str(files / "data/train-*.parquet")
    direct = datasets.load_dataset("parquet", data_files=pattern, cache_dir=cache)["train"]
    assert direct["id"] == loaded["train"]["id"]


def test_folders_that_differ_in_rows_alone_load_as_what_they_hold(
    tmp_path: Path, pool: pl.DataFrame
) -> None:
    import datasets

    loaded = []
    for name, rows in (("a", pool.head(4)), ("b", pool.head(7)), ("c", pool.slice(7, 4))):
        # Every artifact's folder is named `files`: one key for the cache of `datasets`.
        files, _ = export(tmp_path / name / "files", rows)
        data = datasets.load_dataset(str(files), cache_dir=str(tmp_path / "cache"))["train"]
        loaded.append(data["id"])
    assert [len(ids) for ids in loaded] == [4, 7, 4]
    assert set(loaded[0]) != set(loaded[2])


def test_trl_takes_it_for_conversations(tmp_path: Path, pool: pl.DataFrame) -> None:
    import datasets
    from trl import is_conversational

    files, _ = export(tmp_path / "a", pool)
    loaded = datasets.load_dataset(str(files), cache_dir=str(tmp_path / "cache"))
    assert is_conversational(loaded["train"][0])


def test_bytes_do_not_depend_on_where_rows_were_found(tmp_path: Path, pool: pl.DataFrame) -> None:
    origin = pl.struct(
        source=pl.lit("sample"), index=999 - pl.int_range(pl.len()), license=pl.lit("Apache-2.0")
    )
    other = pl.struct(source=pl.lit("a twin"), index=pl.int_range(pl.len()), license=pl.lit("MIT"))
    one = pool.with_columns(pl.concat_list(origin, other, origin).alias("origins"))
    two = pool.with_columns(pl.concat_list(other, origin).alias("origins"))
    rechunked = pl.concat([two[:100], two[100:]], rechunk=False)
    first, _ = export(tmp_path / "a", one, validation_fraction=0.05, rows_per_shard=200)
    second, _ = export(tmp_path / "b", rechunked, validation_fraction=0.05, rows_per_shard=200)
    assert digests(first) == digests(second)
    assert read(first, "train")["sources"][0].to_list() == ["a twin", "sample"]
    assert read(first, "train")["licenses"][0].to_list() == ["Apache-2.0", "MIT"]


def test_shards_of_any_size_hold_the_same_rows(tmp_path: Path, pool: pl.DataFrame) -> None:
    folders = [
        export(tmp_path / str(size), pool, rows_per_shard=size)[0] for size in (50, 333, 10_000)
    ]
    tables = [read(folder, "train") for folder in folders]
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
    assert tables[0]["id"].is_sorted()
    names = [path.name for path in sorted((folders[1] / "data").iterdir())]
    assert names == [f"train-{i:05d}-of-00003.parquet" for i in range(3)]


def test_shards_json_describes_every_shard(tmp_path: Path, pool: pl.DataFrame) -> None:
    files, result = export(
        tmp_path / "a", pool, validation_fraction=0.2, rows_per_shard=100, token_column="tokens"
    )
    described = json.loads((files / "shards.json").read_text())
    assert described["length_unit"] == "column tokens"
    kept = pool.with_columns(result)
    listed = []
    for name, split in described["splits"].items():
        rows = kept.filter(pl.col("split") == name)
        assert split["rows"] == len(rows) == sum(shard["rows"] for shard in split["shards"])
        assert split["total_length"] == rows["tokens"].sum()
        for shard in split["shards"]:
            path = files / shard["file"]
            listed.append(shard["file"])
            assert shard["bytes"] == path.stat().st_size
            assert shard["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
            inside = kept.filter(pl.col("id").is_in(pl.read_parquet(path)["id"].to_list()))
            assert shard["rows"] == len(inside) == sum(shard["lengths"].values())
            for least, count in shard["lengths"].items():
                above = 2 * int(least) or 1
                within = inside["tokens"].is_between(int(least), above - 1)
                assert within.sum() == count
    assert sorted(listed) == [str(p.relative_to(files)) for p in sorted(files.glob("data/*"))]


def test_lengths_are_words_without_a_token_column(tmp_path: Path) -> None:
    rows = frame([record("one two", "three\nfour  five"), record("", "x")])
    files, _ = export(tmp_path / "a", rows)
    described = json.loads((files / "shards.json").read_text())
    assert described["length_unit"] == "words between white space"
    assert described["splits"]["train"]["total_length"] == 6
    assert described["splits"]["train"]["shards"][0]["lengths"] == {"1": 1, "4": 1}


def test_a_missing_length_is_unknown_and_not_zero(tmp_path: Path, pool: pl.DataFrame) -> None:
    counted = pool.with_columns(
        pl.when(pl.int_range(pl.len()) % 3 == 0).then(8).otherwise(None).alias("n")
    )
    folder, verdict = export(tmp_path, counted, token_column="n")
    written = counted.filter(verdict["drop_reason"].is_null())["n"]
    [shard] = json.loads((folder / "shards.json").read_text())["splits"]["train"]["shards"]
    assert written.null_count() > 0
    assert shard["lengths"] == {"8": written.count(), "unknown": written.null_count()}


def test_rows_keep_their_split_when_others_come_and_go(tmp_path: Path, pool: pl.DataFrame) -> None:
    _, whole = export(tmp_path / "a", pool, validation_fraction=0.1)
    _, fewer = export(tmp_path / "b", pool.gather_every(3), validation_fraction=0.1)
    assert fewer["split"].equals(whole["split"].gather_every(3))
    _, more = export(tmp_path / "c", pool, validation_fraction=0.3)
    held = whole["split"].eq_missing("validation")
    assert more["split"].filter(held).eq("validation").all()  # a larger fraction only adds
    assert 0.05 < held.mean() < 0.15  # type: ignore[operator]
    assert export(tmp_path / "d", pool)[1]["split"].drop_nulls().unique().to_list() == ["train"]


def test_splits_that_the_rows_have_are_written(tmp_path: Path, pool: pl.DataFrame) -> None:
    import datasets

    names = pl.Series("split", ["train", "heldout"] * (len(pool) // 2))
    files, result = export(tmp_path / "a", pool.with_columns(names))
    assert result.columns == ["drop_reason", "evidence"]
    loaded = datasets.load_dataset(str(files), cache_dir=str(tmp_path / "cache"))
    kept = result["drop_reason"].is_null()
    for name in ("train", "heldout"):
        assert loaded[name]["id"][:] == pool["id"].filter(kept & (names == name)).to_list()
    plain, _ = export(tmp_path / "b", pool)
    all_train, _ = export(tmp_path / "c", pool.with_columns(split=pl.lit("train")))
    assert digests(plain) == digests(all_train)
    with pytest.raises(UserError, match=r"a split must be a word .* got '\.\./x'"):
        export(tmp_path / "d", pool.with_columns(split=pl.lit("../x")))


def test_one_stage_alone_decides_on_splits() -> None:
    adds, edges = parquet.__stage__.adds, {"rows": [{"split": pl.String}]}  # type: ignore[attr-defined]
    assert adds(SimpleNamespace(validation_fraction=0.0), {"rows": [{}]}) == {"split": pl.String}
    assert adds(SimpleNamespace(validation_fraction=0.0), edges) == {}
    with pytest.raises(OptionError, match=r"must be left out, got 0\.1: the rows have the column"):
        adds(SimpleNamespace(validation_fraction=0.1), edges)


def test_no_answer(tmp_path: Path) -> None:
    rows = frame(
        [
            record("q", "a"),
            record("q", " \n"),
            record("q", "a", "q again"),
            record(),
            record("only a question"),
            record("s", "q", "a", roles=("system", "user", "assistant")),
        ]
    )
    files, result = export(tmp_path / "a", rows)
    verdicts = rows.select("messages").hstack(result)
    splits = {
        tuple(m["content"] for m in line["messages"]): (line["split"], line["evidence"])
        for line in verdicts.iter_rows(named=True)
    }
    assert splits[("q", "a")] == ("train", None)
    assert splits[("s", "q", "a")] == ("train", None)
    for contents, role, characters in [
        (("q", " \n"), "assistant", 0),
        (("q", "a", "q again"), "user", 7),
        ((), None, 0),
        (("only a question",), "user", 15),
    ]:
        split, evidence = splits[contents]
        assert split is None
        assert json.loads(evidence) == {"ends_with": role, "characters": characters}
    assert result["drop_reason"].drop_nulls().to_list() == ["no_answer"] * 4
    assert len(read(files, "train")) == 2


def test_nothing_to_write(tmp_path: Path) -> None:
    files, result = export(
        tmp_path / "a", frame([record("only a question")]), validation_fraction=0.5
    )
    assert result["split"].to_list() == [None]
    assert sorted(digests(files)) == ["README.md", "shards.json"]
    assert json.loads((files / "shards.json").read_text())["splits"] == {}


def test_nothing_is_no_data_set(tmp_path: Path) -> None:
    """Left to itself, the library would take `shards.json` for a row of data."""
    import datasets

    files, _ = export(tmp_path / "a", frame([record("only a question")]))
    with pytest.raises(FileNotFoundError, match="data files found"):
        datasets.load_dataset(str(files), cache_dir=str(tmp_path / "cache"))


def test_vectors_and_types_survive(tmp_path: Path) -> None:
    rows = frame([record("q", "a")]).with_columns(
        vector=pl.Series([[1.0, 2.0]], dtype=pl.List(pl.Float32)), cluster=pl.lit(3, pl.Int32)
    )
    files, _ = export(tmp_path / "a", rows, columns=("vector", "cluster"), compression="snappy")
    path = files / "data/train-00000-of-00001.parquet"
    schema = pq.read_schema(path)
    assert [str(schema.field(name).type) for name in ("vector", "cluster", "id")] == [
        "list<element: float>",
        "int32",
        "string",
    ]
    assert pl.read_parquet(path)["vector"].to_list() == [[1.0, 2.0]]
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "SNAPPY"


@pytest.mark.parametrize(
    ("option", "value", "valid"),
    [
        ("columns", ["a", "a"], "name each once"),
        ("validation_fraction", 1.0, "be below 1"),
        ("validation_fraction", -0.1, "be at least 0"),
        ("rows_per_shard", 0, "be at least 1"),
    ],
)
def test_mistakes_are_reported_before_anything_runs(option: str, value: object, valid: str) -> None:
    assert problems("export.parquet", **{option: value}) == [f"{option} must {valid}, got {value}"]


@pytest.mark.parametrize("name", ["id", "messages", "origins"])
def test_columns_that_are_always_or_never_written_are_refused(name: str) -> None:
    (problem,) = problems("export.parquet", columns=["language", name])
    assert problem.startswith("columns must be columns other than messages, id, ")
    assert problem.endswith(f"got {name}")
