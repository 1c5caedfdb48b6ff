"""Releases for tests of what is published: real stages run, and their artifacts released."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import Exit
from pipeline.execution.snapshot import Snapshot
from pipeline.recipe.publication import Publish
from pipeline.recipe.recipe import Recipe
from pipeline.releases.create import create
from pipeline.store.releases import release_files
from pipeline.store.store import Store
from schemas.release import Release
from stages.publish.card import card, croissant
from tests.support.running import run


class Released(NamedTuple):
    """A release with the store that it is in."""

    store: Store
    release: Release

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot.of_release(self.store, self.release)

    def card(self, previous: Release | None = None, **options: Any) -> str:
        return card(self.store, self.release, self.snapshot, previous, Publish(**options))

    def croissant(self) -> dict[str, Any]:
        return croissant(self.store, self.release, self.snapshot, Publish())

    def written(self, folder: Path) -> Path:
        """A folder with everything that is published."""
        for path, local in release_files(self.store, self.release).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(local, folder / path)
        (folder / "README.md").write_text(self.card(), "utf-8")
        (folder / "croissant.json").write_text(json.dumps(self.croissant()), "utf-8")
        return folder


def released(
    folder: Path,
    stages: Mapping[str, Any],
    name: str = "chat",
    models: Mapping[str, Any] | None = None,
) -> Released:
    """Run a recipe and release what it gives; the next version if it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    content = {"name": name, "models": models or {}, "stages": stages}
    path.write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    recipe, store = Recipe.load(str(path)), Store(folder / "store")
    assert run(recipe, store.root) == Exit.DONE
    return Released(store, create(recipe, store).release)


def pool(path: Path, license: str = "MIT", source: str = "pool") -> dict[str, Any]:
    """A stage that loads a file."""
    options = {"path": str(path), "source": source, "license": license}
    return {"uses": "load.records", "with": options}


def conversations(path: Path, texts: Sequence[str]) -> Path:
    """A file of conversations; each text is the user's turn and the answer."""
    turns = [[{"role": r, "content": t} for r in ("user", "assistant")] for t in texts]
    lines = [json.dumps({"messages": messages}) for messages in turns]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path
