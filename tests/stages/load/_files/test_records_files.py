"""Real files: what is bundled, and the large pools where they are at hand."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from schemas.records import record_id
from stages.load.records import records
from tests.conftest import ROOT
from tests.support.loading import failures, json_lines, load, turns
from tests.support.rows import kept

DATA = ROOT / "data"


def unanswered(frame: pl.DataFrame) -> int:
    return sum(conversation[-1][0] == "user" for conversation in turns(kept(frame)))


@pytest.mark.parametrize(
    ("file", "count"),
    [
        ("seeds/self_instruct_seed_tasks.jsonl", 175),
        ("samples/self_instruct.jsonl.gz", 2500),
        ("samples/selfbehave.jsonl.gz", 1221),
        ("samples/oasst_trees.jsonl.gz", 338),
        ("samples/user_oriented_252.jsonl", 252),
    ],
)
def test_bundled(file: str, count: int) -> None:
    frame = load(DATA / file)
    assert len(kept(frame)) == len(frame) == count
    first = frame.row(0, named=True)
    assert first["id"] == record_id(first["messages"])


def test_seeds_keep_what_generation_needs() -> None:
    frame = load(DATA / "seeds/self_instruct_seed_tasks.jsonl")
    extras = [json.loads(extra) for extra in frame["extra"]]
    assert sum(extra["is_classification"] for extra in extras) == 26
    assert {frozenset(extra) for extra in extras} == {
        frozenset({"id", "name", "is_classification"})
    }


def test_paths_of_a_tree_carry_their_ranks() -> None:
    frame = load(DATA / "samples/oasst_trees.jsonl.gz")
    for extra, conversation in zip(frame["extra"], turns(frame), strict=True):
        path = json.loads(extra)["path"]
        assert len(path) == len(conversation)
        assert path[0]["message_id"] == json.loads(extra)["message_tree_id"]


def test_alpaca(shared: Path) -> None:
    frame = load(shared / "pools/alpaca_52k.json.gz")
    assert len(kept(frame)) == len(frame) == 52_002
    assert unanswered(frame) == 28
    rows = json.loads(gzip.decompress((shared / "pools/alpaca_52k.json.gz").read_bytes()))
    for at in random.Random(0).sample(range(52_002), 500):
        prompt = rows[at]["instruction"]
        if rows[at]["input"]:
            assert frame["input_start"][at] == len(prompt) + 2
            prompt += "\n\n" + rows[at]["input"]
        answer = [("assistant", rows[at]["output"])] if rows[at]["output"] else []
        assert turns(frame[at]) == [[("user", prompt), *answer]]
        assert frame["id"][at] == record_id(frame["messages"][at].to_list())


def test_alpaca_5k_is_in_alpaca(shared: Path) -> None:
    pools = [shared / "pools/alpaca_52k.json.gz", shared / "pools/alpaca_5k.jsonl.gz"]
    frame = load(*pools)
    assert len(kept(frame)) == 52_002
    assert frame["drop_reason"].value_counts().drop_nulls().row(0) == ("duplicate", 5000)


@pytest.mark.parametrize(
    ("file", "lines", "dropped", "failed", "without_answer"),
    [
        ("chat/sharegpt_zh_1k.jsonl.gz", 1000, 0, 1, 7),
        ("chat/glaive_toolcall_en_demo.json.gz", 300, 35, 0, 0),
        ("chat/kto_en_demo.json.gz", 300, 0, 300, 0),
        ("chat/dpo_en_demo.json.gz", 300, 0, 300, 0),
        ("chat/oasst_sft_zh.json.gz", 766, 1, 0, 0),
        ("chat/identity.json", 91, 0, 0, 0),
        ("chat/lima_sharegpt_1k.json.gz", 1000, 0, 0, 0),
        ("pools/lima_train.jsonl.gz", 1030, 0, 0, 1),
        ("pools/gpteacher_codegen.json.gz", 4535, 0, 0, 0),
        ("pools/belle_zh_seed_tasks.jsonl.gz", 175, 0, 0, 0),
        ("pools/t0_train_templates.parquet", 44_337, 961, 0, 0),
    ],
)
def test_real_formats(
    shared: Path, file: str, lines: int, dropped: int, failed: int, without_answer: int
) -> None:
    frame = load(shared / file)
    assert len(frame) == lines
    assert len(failures(frame)) == failed
    assert len(kept(frame)) == lines - dropped - failed
    assert unanswered(frame) == without_answer


def test_history_of_real_conversations(shared: Path) -> None:
    frame = load(shared / "chat/oasst_sft_zh.json.gz")
    rows = json.loads(gzip.decompress((shared / "chat/oasst_sft_zh.json.gz").read_bytes()))
    lengths = [2 * len(row["history"]) + 2 for row in rows]
    assert frame["messages"].list.len().to_list() == lengths


def test_ranked_answers_are_failures_with_a_reason(shared: Path) -> None:
    frame = load(shared / "chat/oasst_rm_zh.json.gz")
    assert {reason for _, reason in failures(frame)} == {"'output' is a list, not a text"}
    assert len(failures(frame)) == 775


def test_a_folder_that_the_datasets_library_loads(ctx: Context, tmp_path: Path) -> None:
    rows = [{"instruction": f"i{n}", "input": "", "output": f"o{n}"} for n in range(4)]
    rows[2]["instruction"] = ""
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/train.jsonl").write_bytes(json_lines(rows))
    frame = next(records(ctx, dataset=str(tmp_path / "pool"), source="hub", license="MIT"))
    assert turns(frame) == [[("user", f"i{n}"), ("assistant", f"o{n}")] for n in range(4) if n != 2]
    assert failures(frame) == [(3, "empty instruction")]


def test_a_data_set_that_cannot_be_reached(ctx: Context) -> None:
    with pytest.raises(UserError, match="cannot load the data set 'nobody/nothing'") as caught:
        next(records(ctx, dataset="nobody/nothing", source="hub", license="MIT"))
    assert "give its files as `path`" in str(caught.value)


@pytest.mark.bench
def test_speed_on_alpaca(shared: Path) -> None:
    began = time.perf_counter()
    load(shared / "pools/alpaca_52k.json.gz")
    assert time.perf_counter() - began < 2.5


@pytest.mark.proof
@pytest.mark.parametrize("array", [False, True])
def test_a_million_rows_stay_under_4_gib(tmp_path: Path, array: bool) -> None:
    path = tmp_path / "pool"
    with path.open("w") as file:
        file.write("[\n" if array else "")
        for n in range(1_000_000):
            row = json.dumps({"instruction": f"question {n} " * 8, "output": f"answer {n} " * 20})
            file.write(row + (",\n" if array and n < 999_999 else "\n"))
        file.write("]" if array else "")
    code = (
        "import sys; from pathlib import Path; import polars as pl\n"
        "from pipeline.execution.peak_memory import peak_memory\n"
        "from pipeline.context import Context; from stages.load.records import records\n"
        "frame = pl.concat(records(Context.scratch(Path(sys.argv[1])), path=(sys.argv[2],), "
        "source='s', license='l'))\n"
        "assert len(frame) == frame['id'].n_unique() == 1_000_000\n"
        "print(peak_memory())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "ctx"), str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4 << 30
