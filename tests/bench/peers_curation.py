"""Filters, near-duplicates and Parquet, as people run them: data-juicer and datatrove.

The same filters as in filter.yaml, in the same order: the answer's characters, its words,
its repeated 10-grams, and its redundancy. For the last three each tool has its own filter
and its own count (datatrove has none for redundancy: a function, as its users write);
characters are the same for all, so `passed`, the rows left by that filter, must agree.

Each run is a program of its own, `python -m tests.bench.peers_curation NAME SOURCE FOLDER`,
from its start to its end: as people run them, and as ours is run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

Outcome = dict[str, np.ndarray]
OUTCOME = "outcome.npz"

SHORTEST, LONGEST, FEWEST, REPEATED, DENSE = 20, 2000, 5, 0.3, 0.2


def data_juicer(folder: Path, file: str) -> Callable[[], Outcome]:
    """Its default executor with two processes, from a configuration file."""
    return lambda: _started("data_juicer", folder, folder / file)


def datatrove(folder: Path, file: str) -> Callable[[], Outcome]:
    """Its filters, then its four steps of MinHash, with two workers and a file for each."""
    lines = (folder / file).read_text("utf-8").splitlines(keepends=True)
    source = folder / "datatrove-jsonl"
    source.mkdir(exist_ok=True)
    half = len(lines) // 2
    (source / "0.jsonl").write_text("".join(lines[:half]), "utf-8")
    (source / "1.jsonl").write_text("".join(lines[half:]), "utf-8")
    return lambda: _started("datatrove", folder, source)


def _started(name: str, folder: Path, source: Path) -> Outcome:
    """The outcome of one program, which has ended."""
    work = tempfile.mkdtemp(dir=folder)
    command = [sys.executable, "-m", "tests.bench.peers_curation", name, str(source), work]
    if subprocess.run(command, check=False).returncode:
        sys.exit(1)  # it has said why
    with np.load(Path(work) / OUTCOME) as held:
        return dict(held)


def _data_juicer(source: Path, work: Path) -> Outcome:
    os.environ |= {"HF_HOME": str(work / "hf"), "DATA_JUICER_CACHE_HOME": str(work / "cache")}
    from data_juicer.config import init_configs
    from data_juicer.core import DefaultExecutor
    from data_juicer.ops import base_op
    from loguru import logger

    # After each operator it empties a GPU's cache, and would install torch for that.
    base_op.free_models = lambda: None

    answer = {"text_key": "response"}
    filters = [
        {"text_length_filter": {**answer, "min_len": SHORTEST, "max_len": LONGEST}},
        {"words_num_filter": {**answer, "min_num": FEWEST}},
        {"word_repetition_filter": {**answer, "rep_len": 10, "max_ratio": REPEATED}},
        {"character_repetition_filter": {**answer, "max_ratio": 0.5}},
        {"document_minhash_deduplicator": {"jaccard_threshold": 0.8}},
    ]
    configuration = work / "filter.yaml"
    configuration.write_text(
        json.dumps(
            {
                "dataset_path": str(source),
                "export_path": str(work / "out" / "kept.parquet"),
                "np": 2,
                "process": filters,
            }
        )
    )
    executor = DefaultExecutor(init_configs(["--config", str(configuration)]))
    reported: list[str] = []
    logger.add(lambda message: reported.append(str(message)))
    executor.run(skip_return=True)
    left = re.search(r"text_length_filter\] Done.*Left (\d+)", "".join(reported))
    assert left, "data-juicer does not say how many rows a filter left"
    return _outcome((work / "out").rglob("*.parquet"), int(left[1]))


def _datatrove(source: Path, work: Path) -> Outcome:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.filters import (
        GopherQualityFilter,
        GopherRepetitionFilter,
        LambdaFilter,
    )
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter, ParquetWriter

    fit, signed, near, removed, kept = (
        str(work / name) for name in ("fit", "signatures", "buckets", "removed", "kept")
    )

    def execute(tasks: int, *steps: Any) -> int:
        """Run; how many rows the filter by characters left, if it is there."""
        reported = LocalPipelineExecutor(
            list(steps), tasks=tasks, workers=min(tasks, 2), logging_dir=str(work / "logs"),
            skip_completed=False, start_method="fork",
        ).run()  # fmt: skip
        lengths = [one for one in reported.stats if "Lambda" in one.name]
        return int(lengths[0].stats["forwarded"].total) if lengths else 0

    only = {"min_avg_word_length": None, "max_avg_word_length": None, "min_stop_words": None}
    only |= {"max_symbol_word_ratio": None, "max_bullet_lines_ratio": None}
    only |= {"max_ellipsis_lines_ratio": None, "max_non_alpha_words_ratio": None}
    lines_and_paragraphs = dict.fromkeys(
        ("dup_line_frac", "dup_para_frac", "dup_line_char_frac", "dup_para_char_frac")
    )
    filters = (
        LambdaFilter(has_length),
        GopherQualityFilter(min_doc_words=FEWEST, **only),
        GopherRepetitionFilter(
            top_n_grams=(), dup_n_grams=((10, REPEATED),), **lines_and_paragraphs
        ),
        LambdaFilter(is_dense),
    )
    read = JsonlReader(str(source), text_key="response")
    passed = execute(2, read, *filters, whole, JsonlWriter(fit, compression=None))
    execute(2, JsonlReader(fit), MinhashDedupSignature(signed))
    execute(14, MinhashDedupBuckets(signed, near))
    execute(1, MinhashDedupCluster(near, removed))
    execute(2, JsonlReader(fit), MinhashDedupFilter(removed), ParquetWriter(kept))
    return _outcome(Path(kept).glob("*"), passed)


def _outcome(files: Iterable[Path], passed: int) -> Outcome:
    """The ids in Parquet files, and how many rows had the length."""
    kept = [one for path in files for one in pq.read_table(path)["id"].to_pylist()]
    return {"kept": np.array(sorted(kept)), "passed": np.array(passed)}


def has_length(document: Any) -> bool:
    """The filter by characters."""
    return SHORTEST <= len(document.text) <= LONGEST


def is_dense(document: Any) -> bool:
    """The filter by redundancy: what zlib makes of the bytes."""
    raw = document.text.encode()
    return len(zlib.compress(raw, 6)) / len(raw) >= DENSE


def whole(documents: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
    """From the answers, which the filters look at, to the conversations."""
    for document in documents:
        document.text = document.metadata.pop("text")
        yield document


if __name__ == "__main__":
    name, source, work = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    program = {"data_juicer": _data_juicer, "datatrove": _datatrove}[name]
    np.savez(work / OUTCOME, **program(source, work))
