"""What flows along an edge: rows seen through the stages that they passed.

An artifact stores only what its stage added. A view stacks a base artifact (whole
rows) and the artifacts of the annotating stages behind it, narrowed to the rows
that the last one kept. Columns are read only when somebody asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from pipeline.store.artifact import Artifact
from pipeline.store.hashing import column_digest, digest
from pipeline.store.store import Store


@dataclass(frozen=True)
class Layer:
    """One artifact and the columns that it gives."""

    artifact: Artifact
    columns: tuple[str, ...]


@dataclass(frozen=True)
class View:
    """Rows in id order. layers: the base first; the last one says which rows are left."""

    layers: tuple[Layer, ...]

    def __len__(self) -> int:
        return self.layers[-1].artifact.kept

    @property
    def columns(self) -> list[str]:
        """All columns that can be read, `id` among them."""
        return list(dict.fromkeys(["id", *(c for layer in self.layers for c in layer.columns)]))

    def with_layer(self, artifact: Artifact, columns: Sequence[str]) -> View:
        """The view behind one more stage."""
        return View((*self.layers, Layer(artifact, tuple(columns))))

    def read(self, columns: Sequence[str]) -> pl.DataFrame:
        """`id` and the named columns, one line per row, in id order."""
        ids = self.layers[-1].artifact.read("kept", ["id"])
        frames = [ids]
        for layer in self.layers:
            wanted = [c for c in columns if c in layer.columns and c != "id"]
            if wanted:
                frames.append(self._narrowed(layer, wanted, ids))
        return pl.concat(frames, how="horizontal").select("id", *[c for c in columns if c != "id"])

    def _narrowed(self, layer: Layer, wanted: list[str], ids: pl.DataFrame) -> pl.DataFrame:
        last = self.layers[-1].artifact
        if layer.artifact.manifest["columns"]["id"] == last.manifest["columns"]["id"]:
            return layer.artifact.read("kept", wanted)
        frame = layer.artifact.read("kept", ["id", *wanted])
        # Both are in id order. A join would gather each text, which takes seven times as long.
        return frame.filter(pl.col("id").is_in(ids["id"].implode())).drop("id")

    def digest(self, column: str, store: Store) -> str:
        """A digest of the column's values on the rows of the view."""
        last = self.layers[-1].artifact
        giver = next(
            layer.artifact for layer in reversed(self.layers) if column in (*layer.columns, "id")
        )
        if giver.kept == last.kept:
            return giver.manifest["columns"][column]
        values, rows = giver.manifest["columns"][column], giver.manifest["columns"]["id"]
        key = digest([values, rows, last.manifest["columns"]["id"]])
        known = store.digest(key)
        if known is None:
            known = column_digest(self.read([column])[column])
            store.set_digest(key, known)
        return known

    def digests(self, columns: Sequence[str], store: Store) -> dict[str, Any]:
        """What a fingerprint holds of this view: its row ids and the columns that are read."""
        return {
            "ids": self.digest("id", store),
            "columns": {name: self.digest(name, store) for name in sorted(columns)},
        }
