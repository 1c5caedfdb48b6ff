"""What flows along an edge: rows seen through the stages that they passed.

An artifact stores only what its stage added. A view stacks a base artifact (complete
rows) and the artifacts of the annotating stages behind it, filtered to the rows that
the last one kept. A column is read only when it is asked for.
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
    """One artifact of a view.

    Attributes:
        artifact: The artifact.
        columns: The columns that are read from it.
    """

    artifact: Artifact
    columns: tuple[str, ...]


@dataclass(frozen=True)
class View:
    """Rows in id order.

    Attributes:
        layers: The base first; the kept rows of the last one are the rows of the view.
    """

    layers: tuple[Layer, ...]

    def __len__(self) -> int:
        return self.layers[-1].artifact.kept

    def __bool__(self) -> bool:
        """Whether it is there, which it is: one without rows is a view too, unlike None."""
        return True

    @property
    def columns(self) -> list[str]:
        """All columns that can be read, `id` among them."""
        return list(dict.fromkeys(["id", *(c for layer in self.layers for c in layer.columns)]))

    def with_layer(self, artifact: Artifact, columns: Sequence[str]) -> View:
        """The view behind one more stage."""
        return View((*self.layers, Layer(artifact, tuple(columns))))

    def read(self, columns: Sequence[str]) -> pl.DataFrame:
        """`id` and the named columns, sorted by id."""
        ids = self.layers[-1].artifact.read("kept", ["id"])
        frames = [ids]
        for layer in self.layers:
            selected = [c for c in columns if c in layer.columns and c != "id"]
            if selected:
                frames.append(self._read_layer(layer, selected, ids))
        return pl.concat(frames, how="horizontal").select("id", *[c for c in columns if c != "id"])

    def _read_layer(self, layer: Layer, columns: list[str], ids: pl.DataFrame) -> pl.DataFrame:
        last = self.layers[-1].artifact
        if layer.artifact.manifest["columns"]["id"] == last.manifest["columns"]["id"]:
            return layer.artifact.read("kept", columns)
        frame = layer.artifact.read("kept", ["id", *columns])
        # Both are sorted by id. A join would copy each text, which takes seven times as long.
        return frame.filter(pl.col("id").is_in(ids["id"].implode())).drop("id")

    def digest(self, column: str, store: Store) -> str:
        """A digest of the column's values on the rows of the view."""
        last = self.layers[-1].artifact
        source = next(
            layer.artifact for layer in reversed(self.layers) if column in (*layer.columns, "id")
        )
        if source.kept == last.kept:
            return source.manifest["columns"][column]
        values, rows = source.manifest["columns"][column], source.manifest["columns"]["id"]
        key = digest([values, rows, last.manifest["columns"]["id"]])
        result = store.digest(key)
        if result is None:
            result = column_digest(self.read([column])[column])
            store.set_digest(key, result)
        return result

    def digests(self, columns: Sequence[str], store: Store) -> dict[str, Any]:
        """What a fingerprint holds of this view: its row ids and the columns that are read."""
        return {
            "ids": self.digest("id", store),
            "columns": {name: self.digest(name, store) for name in sorted(columns)},
        }
