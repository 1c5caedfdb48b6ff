"""A store of a hundred releases: what people call every day stays within its times."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from pipeline.store.releases import read_release, versions, write_release
from pipeline.store.store import Store
from tests.support.cli import call
from tests.support.running import pool, toys

VERBS = (("status",), ("plan",), ("refresh",), ("release",), ("diff",))
RECIPE = """\
name: weekly
stages:
  before: {uses: load.release, with: {name: weekly, optional: true}}
  a: {uses: toy.load, with: {path: rows.txt}}
  sized: {uses: toy.length, needs: a}
  chosen: {uses: select.random, needs: {rows: sized, held: before}, with: {budget: 8}}
  shards: {uses: export.parquet, needs: chosen}
"""


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A recipe that reads its own releases, with one of them."""
    pool(tmp_path / "rows.txt", 12)
    (tmp_path / "weekly.yaml").write_text(toys(RECIPE))
    words = [str(tmp_path / "weekly.yaml"), "--store", str(tmp_path / "store")]
    assert call("refresh", *words).code == 0
    return words


def seconds(words: list[str]) -> dict[str, float]:
    """The least of three calls, by verb."""
    return {verb[0]: min(call(*verb, *words).seconds for _ in range(3)) for verb in VERBS}


def test_a_hundred_releases_cost_less_than_a_second(words: list[str]) -> None:
    """All are the recipe's own, from the sources as they are: the most that `latest` looks at."""
    few, store = seconds(words), Store(Path(words[-1]))
    first = read_release(store, "weekly@1.0")
    for minor in range(1, 100):
        write_release(store, {**first, "version": f"1.{minor}", "parent": f"1.{minor - 1}"})
    for name in ("other", "third"):
        write_release(store, {**first, "name": name})
    assert len(versions(store, "weekly")) == 100
    many = seconds(words)
    for verb, spent in many.items():
        assert spent < few[verb] + 1, (verb, few, many)
    began = time.process_time()
    assert len(json.loads(call("releases", "--json", *words[1:]).stdout)) == 102
    assert time.process_time() - began < 2
