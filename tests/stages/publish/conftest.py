"""Releases that several tests look at."""

from __future__ import annotations

import gzip
import json

import pytest

from pipeline.stage import ROOT
from tests.support.publishing import Released, conversations, pool, released
from tests.support.tool_rows import glaive_row

HOSTILE = [
    "</code></pre><script>alert(1)</script><img src=x onerror=alert(1)>",
    "```\n# a heading\n\n[a link](javascript:alert(1)) ![an image](http://example.com/x.png)\n~~~~",
    "a | b |\n|---|---|\n| c | d |",
    "---\nlicense: mit\n---\n",
    "{{ front }}{% include 'card.md.jinja' %}{{ 7 * 7 }}",
    "\u202e\x1b[31m <!-- ``` `````` <b>bold</b> **bold** &lt;i&gt;",
    "http://example.com me@example.com <http://example.com>\r\n# heading\r\n",
]
HOSTILE_NAME = "a | <b>`b`</b> [c](http://example.com)\n# d"


@pytest.fixture(scope="session")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Released:
    """Real rows, some of them copied from a benchmark, through filters, tags and a choice."""
    samples, folder = ROOT / "data/samples", tmp_path_factory.mktemp("curated")
    with gzip.open(ROOT / "data/benchmarks/mt_bench.jsonl.gz", "rt") as file:
        asked = [json.loads(line)["turns"][0] for line in file][:3]
    return released(
        folder,
        {
            "copied": pool(conversations(folder / "copied.jsonl", asked), "MIT", "copied"),
            "exams": {"uses": "load.benchmarks", "with": {"names": ["mt_bench"]}},
            "behave": pool(samples / "selfbehave.jsonl.gz", "Apache-2.0", "selfbehave"),
            "oasst": pool(samples / "oasst_trees.jsonl.gz", "CC-BY-4.0", "oasst"),
            "all": {"uses": "load.concat", "needs": ["behave", "oasst", "copied"]},
            "unique": {"uses": "dedup.minhash", "needs": "all"},
            "clean": {
                "uses": "decontaminate.ngram",
                "needs": {"rows": "unique", "benchmarks": "exams"},
            },
            "certified": {
                "uses": "decontaminate.certificate",
                "needs": {"before": "unique", "after": "clean", "benchmarks": "exams"},
            },
            "tagged": {"uses": "tag.surface", "needs": "clean"},
            "chosen": {"uses": "select.random", "needs": "tagged", "with": {"budget": 60}},
            "shards": {
                "uses": "export.parquet",
                "needs": "chosen",
                "with": {"validation_fraction": 0.2, "rows_per_shard": 20},
            },
        },
    )


@pytest.fixture(scope="session")
def several(tmp_path_factory: pytest.TempPathFactory) -> Released:
    """Conversations with tools, in two forms, and preference pairs."""
    folder = tmp_path_factory.mktemp("several")
    path = folder / "glaive.jsonl"
    path.write_text("\n".join(json.dumps(glaive_row(i)) for i in range(12)), "utf-8")
    ranked = {"path": str(ROOT / "data/samples/oasst_trees.jsonl.gz"), "ranked": "adjacent"}
    return released(
        folder,
        {
            "rows": pool(path, "CC0-1.0", "glaive"),
            "ranked": {
                "uses": "load.pairs",
                "with": {**ranked, "source": "oasst", "license": "Apache-2.0"},
            },
            "shards": {
                "uses": "export.parquet",
                "needs": "rows",
                "with": {"validation_fraction": 0.3},
            },
            "lines": {"uses": "export.jsonl", "needs": "rows", "with": {"form": "openai"}},
            "preferences": {"uses": "export.pairs", "needs": "ranked", "with": {"form": "dpo"}},
        },
    )


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Released:
    """Rows, a source and a license that try to be markup."""
    folder = tmp_path_factory.mktemp("hostile")
    path = conversations(folder / "rows.jsonl", HOSTILE)
    stages = {
        "pool": pool(path, HOSTILE_NAME, HOSTILE_NAME),
        "shards": {"uses": "export.parquet", "needs": "pool"},
    }
    return released(folder, stages)
