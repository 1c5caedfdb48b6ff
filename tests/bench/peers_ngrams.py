"""13-gram decontamination as people run it: datatrove's index and filter, with its defaults.

It normalises numbers away and splits words with spaCy, so its rows are not ours; ours
are compared with the strong baseline.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


def datatrove(folder: Path, file: str, benchmarks: str) -> Callable[[], dict[str, np.ndarray]]:
    """From files to files with two workers; the ids that are `kept`.

    Its indexer wants lighteval, so the index is written here, by its own functions.
    """
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.decont import NGramsDecontConfig, NGramsDecontFilter
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter
    from datatrove.utils.text import ngrams, simplify_text

    table = pq.read_table(folder / file, columns=["id", "text"])
    source = folder / f"datatrove-{file}"
    source.mkdir(exist_ok=True)
    half = table.num_rows // 2
    pq.write_table(table.slice(0, half), source / "0.parquet")
    pq.write_table(table.slice(half), source / "1.parquet")
    ids = table["id"].to_pylist()
    items = pq.read_table(folder / benchmarks, columns=["benchmark", "texts"]).to_pylist()
    config = NGramsDecontConfig(n_grams=13, find_query_ngrams=True)

    def run() -> dict[str, np.ndarray]:
        work = Path(tempfile.mkdtemp(dir=folder))
        (work / "index").mkdir()
        check = NGramsDecontFilter(str(work / "index"), config)
        hashes: dict[str, set[int]] = {}
        for item in items:
            for one in item["texts"]:
                words = check.tokenizer.word_tokenize(simplify_text(one["text"] or ""))
                grams = map(" ".join, ngrams(words, config.n_grams))
                hashes.setdefault(item["benchmark"], set()).update(map(check.hash_func, grams))
        for name, held in hashes.items():
            np.array(list(held), dtype=config.hash_config.np_descr).tofile(
                work / "index" / f"{name}.index.hashes"
            )
        steps = [ParquetReader(str(source)), check, ParquetWriter(str(work / "kept"))]
        LocalPipelineExecutor(
            steps,
            tasks=2,
            workers=2,
            logging_dir=str(work / "logs"),
            start_method="fork",
        ).run()
        written = (work / "kept").glob("*.parquet")
        kept = {one for path in written for one in pq.read_table(path)["id"].to_pylist()}
        return {"kept": np.array([one in kept for one in ids])}

    return run
