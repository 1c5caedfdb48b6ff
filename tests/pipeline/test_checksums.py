"""Checksums of the parts of Parquet files, and what is checked when an artifact is read."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import Exit, UserError
from pipeline.recipe.recipe import Recipe
from pipeline.store.artifact import open_artifact
from pipeline.store.checksums import CHECKSUMS, read_checksums, verify_parts, write_checksums
from pipeline.store.file_hashes import file_digest
from pipeline.store.files import DamagedFile
from pipeline.store.manifests import write_manifest
from pipeline.store.parquet import ROW_GROUP, write_frame
from tests.support.running import artifact, pool, recipe, run

MESSAGES = pl.List(pl.Struct({"role": pl.String, "calls": pl.List(pl.Struct({"a.b": pl.Int64}))}))
SCHEMA = {
    "id": pl.String, "a.b": pl.Float32, "messages": MESSAGES, "vector": pl.List(pl.Float32),
    "flag": pl.Boolean, "nothing": pl.String,
}  # fmt: skip


def frame(rows: int) -> pl.DataFrame:
    turns = [{"role": "user", "calls": [{"a.b": 1}]}, {"role": "tool", "calls": []}]
    return pl.DataFrame(
        {
            "id": [f"{i:06d}" for i in range(rows)],
            "a.b": [i / 7 for i in range(rows)],
            "messages": [turns[: i % 3] for i in range(rows)],
            "vector": [[i / 3, None][: i % 3] for i in range(rows)],
            "flag": [None if i % 5 else True for i in range(rows)],
            "nothing": [None] * rows,
        },
        schema=SCHEMA,
    )


@pytest.mark.parametrize("rows", [0, 1, 100, ROW_GROUP + 3])
def test_each_byte_is_in_one_part_and_each_chunk_under_its_column(
    tmp_path: Path, rows: int
) -> None:
    path = tmp_path / "kept.parquet"
    write_frame(path, frame(rows))
    write_checksums(tmp_path)
    parts = read_checksums(tmp_path)[path.name]
    end = 0
    for part in parts:
        assert part.start == end
        end += part.size
    assert end == path.stat().st_size
    assert {part.column for part in parts} <= {None, *SCHEMA}
    groups = max(1, -(-rows // ROW_GROUP))
    for column, leaves in (("messages", 2), ("a.b", 1), ("vector", 1)):
        assert sum(part.column == column for part in parts) == leaves * groups
    verify_parts(path, parts, {None, *SCHEMA})


def test_the_checksums_of_a_million_rows_are_small(tmp_path: Path) -> None:
    """Each row group of 16,384 rows has some 65 bytes for a column."""
    write_frame(tmp_path / "kept.parquet", pl.concat([frame(1000)] * 33))
    write_checksums(tmp_path)
    leaves = 7
    assert (tmp_path / CHECKSUMS).stat().st_size < 65 * (3 * leaves + 4)


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flip_is_seen_by_who_reads_its_column_and_by_no_other(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "kept.parquet"
    if not path.exists():
        write_frame(path, frame(100))
        write_checksums(tmp_path)
        path.rename(tmp_path / "sound")
    content = bytearray((tmp_path / "sound").read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    parts = read_checksums(tmp_path)[path.name]
    (hit,) = [p.column for p in parts if p.start <= at < p.start + p.size]
    for columns in ({None}, *({None, name} for name in SCHEMA)):
        if hit in columns:
            with pytest.raises(DamagedFile, match="not those that were written"):
                verify_parts(path, parts, columns)
        else:
            verify_parts(path, parts, columns)


def chain(folder: Path, maximum: int = 20) -> Recipe:
    rows = pool(folder / "rows.txt", 40)
    return recipe(
        {
            "a": {"uses": "toy.load", "with": {"path": str(rows)}},
            "sized": {"uses": "toy.length", "needs": "a"},
            "brief": {"uses": "toy.at_most", "needs": "sized", "with": {"maximum": maximum}},
            "out": {"uses": "toy.export", "needs": "brief"},
            "listed": {"uses": "toy.sizes", "needs": {"files": "out"}},
        }
    )


def flip(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at if at >= 0 else len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("step", ["a", "sized"])
def test_a_run_that_needs_damaged_rows_computes_them_again(
    tmp_path: Path, step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    run(chain(tmp_path), store)
    before = artifact(chain(tmp_path), store, step)
    flip(path := before.folder / "kept.parquet", 40)
    assert run(chain(tmp_path, maximum=10), store) is Exit.DONE
    assert f"warning: {path} is damaged" in capsys.readouterr().err
    assert file_digest(path) == before.manifest["files"]["kept.parquet"]["sha256"]
    run(chain(tmp_path, maximum=10), sound := tmp_path / "sound")
    for name in ("brief", "out"):
        digests = [
            artifact(chain(tmp_path), root, name).manifest["digest"] for root in (store, sound)
        ]
        assert digests[0] == digests[1]


def test_a_run_with_nothing_to_do_sees_damaged_files(tmp_path: Path) -> None:
    """They are what a user takes; a second one without damage reads none of them."""
    store = tmp_path / "store"
    run(chain(tmp_path), store)
    before = artifact(chain(tmp_path), store, "out")
    path = before.files / "answers.txt"
    content = path.read_bytes()
    flip(path)
    assert run(chain(tmp_path), store) is Exit.DONE
    assert path.read_bytes() == content
    (before.files / "more.txt").write_text("nobody wrote this")
    assert run(chain(tmp_path), store) is Exit.DONE
    assert sorted(p.name for p in before.files.iterdir()) == ["answers.txt", "summary.md"]


def test_an_artifact_of_an_earlier_version_is_checked_as_a_whole(tmp_path: Path) -> None:
    store = tmp_path / "store"
    run(chain(tmp_path), store)
    opened = artifact(chain(tmp_path), store, "sized")
    files = {n: e for n, e in opened.manifest["files"].items() if n != CHECKSUMS}
    write_manifest(opened.folder, {**opened.manifest, "files": files})
    manifest = json.loads((opened.folder / "manifest.json").read_text())
    (opened.folder / "manifest.json").write_text(
        json.dumps({k: v for k, v in manifest.items() if k != "checksum"})
    )
    (opened.folder / CHECKSUMS).unlink()
    moved = opened.folder.rename(tmp_path / opened.folder.name)
    earlier = open_artifact(moved)
    assert earlier
    assert len(earlier.read("kept", ["id"])) == 40
    flip(moved / "kept.parquet", 40)
    with pytest.raises(UserError, match="damaged"):
        earlier.read("kept", ["id"])
