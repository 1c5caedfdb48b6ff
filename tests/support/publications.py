"""Small releases to publish, and what publishing them in this process needs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.releases.publication import Publication, prepare
from pipeline.store.file_hashes import file_digest
from pipeline.store.parquet import write_table
from pipeline.store.releases import write_release
from pipeline.store.store import Store
from schemas.release import Release
from tests.support.fake_hub import TOKEN, FakeHub

NAME = "chat"
REPO = "org/chat"
CARD = """\
---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---
# chat {version}
"""


def rows(first: int, count: int) -> pa.Table:
    """Conversations with nested values, nulls and text that is not ASCII."""
    turns = [
        [{"role": "user", "content": f"Grüße {i}"}, {"role": "assistant", "content": None}]
        for i in range(first, first + count)
    ]
    ids = [f"{i:04d}" for i in range(first, first + count)]
    scores = [None if i % 3 == 0 else i / 7 for i in range(first, first + count)]
    return pa.table({"messages": turns, "id": ids, "score": scores})


def toy_release(store: Store, version: str, shards: int = 2, first: int = 0) -> Release:
    """A release whose shards lie in the store; nothing was run for it.

    Args:
        store: The store.
        version: Its version, which its rows follow.
        shards: How many shards it has.
        first: The number of the first row.
    """
    fingerprint = hashlib.sha256(f"{version} {shards} {first}".encode()).hexdigest()[:32]
    folder = store.root / "artifacts" / fingerprint / "files"
    files = []
    for number in range(shards):
        path = f"data/train-{number:05d}-of-{shards:05d}.parquet"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_table(folder / path, rows(first + 10 * number, 10))
        size = (folder / path).stat().st_size
        digest = file_digest(folder / path)
        files.append({"stage": "shards", "path": path, "bytes": size, "sha256": digest, "rows": 10})
    counts = {"in": 10 * shards, "created": 0, "kept": 10 * shards, "dropped": {}, "failed": 0}
    recipe = {"name": NAME, "text": "", "sha256": "", "digest": "", "profile": None}
    stage = {
        "name": "shards", "uses": "export.parquet", "version": 1, "fingerprint": fingerprint,
        "digest": "", "makes": "files", "kind": None, "first": None, "needs": {},
        "counts": counts, "columns": {}, "parts": {}, "incomplete": False,
    }  # fmt: skip
    release: Any = {
        "format": 1, "name": NAME, "version": version, "parent": None,
        "created": "2026-01-01T00:00:00+00:00", "recipe": {**recipe, "overrides": []},
        "schema": 1, "stages": [stage], "published": ["shards"], "files": files,
        "counts": counts, "licenses": {"mit": 10 * shards}, "models": [], "journal": None,
        "certificate": None, "libraries": {},
    }  # fmt: skip
    write_release(store, release)
    result: Release = release
    return result


def toy_publication(
    folder: Path, version: str = "1.0", shards: int = 2, first: int = 0
) -> Publication:
    """The publication of a small release.

    Args:
        folder: Where its store and its rendered files are put.
        version: Its version.
        shards: How many shards it has.
        first: The number of the first row.
    """
    store = Store(folder / "store")
    release = toy_release(store, version, shards, first)
    rendered = folder / f"rendered-{version}"
    rendered.mkdir(parents=True, exist_ok=True)
    return prepare(
        store, release, rendered, card=CARD.format(version=version), croissant={"name": NAME}
    )


def digests(publication: Publication) -> dict[str, str]:
    return {path: entry["sha256"] for path, entry in publication.entries.items()}


@contextmanager
def reachable(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Let the libraries of this process talk to the hub, with its token."""
    import datasets.config
    from huggingface_hub import constants

    with hub.listening() as url:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 5)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", url)
        yield hub
