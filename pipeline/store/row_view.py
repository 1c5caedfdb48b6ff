"""What flows along an edge: rows seen through the stages that they passed.

An artifact stores only what its stage added. A view stacks a base artifact (complete
rows) and the artifacts of the annotating stages behind it, filtered to the rows that
the last one kept. A column is read only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import polars as pl

from pipeline.store.artifact import Artifact
from pipeline.store.hashing import ColumnDigest, digest
from pipeline.store.parquet import ROW_GROUP
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
            if selected := self._selected(layer, columns):
                frames.append(self._read_layer(layer, selected, ids))
        return pl.concat(frames, how="horizontal").select("id", *[c for c in columns if c != "id"])

    def _read_layer(self, layer: Layer, columns: list[str], ids: pl.DataFrame) -> pl.DataFrame:
        if self._has_all(layer):
            return layer.artifact.read("kept", columns)
        frame = layer.artifact.read("kept", ["id", *columns])
        # Both are sorted by id. A join would copy each text, which takes seven times as long.
        return frame.filter(pl.col("id").is_in(ids["id"].implode())).drop("id")

    def _has_all(self, layer: Layer) -> bool:
        """Whether a layer has the rows of the view and no others."""
        last = self.layers[-1].artifact
        return layer.artifact.manifest["columns"]["id"] == last.manifest["columns"]["id"]

    def parts(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """What `read` gives, a row group at a time; without rows one part that has none.

        Args:
            columns: The columns beside `id`.
        """
        if not len(self):
            yield self.read(columns)
            return
        selected = [(layer, self._selected(layer, columns)) for layer in self.layers]
        readers = [self._reader(layer, names) for layer, names in selected if names]
        for ids in self.layers[-1].artifact.parts("kept", ["id"]):
            frames = [ids, *(reader.take(ids["id"]) for reader in readers)]
            part = pl.concat(frames, how="horizontal")
            yield part.select("id", *[c for c in columns if c != "id"])

    def _selected(self, layer: Layer, columns: Sequence[str]) -> list[str]:
        return [c for c in columns if c in layer.columns and c != "id"]

    def _reader(self, layer: Layer, columns: list[str]) -> _LayerReader:
        names = columns if self._has_all(layer) else ["id", *columns]
        return _LayerReader(layer.artifact.parts("kept", names), filters="id" in names)

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
            result = self._column_digest(column)
            store.set_digest(key, result)
        return result

    def _column_digest(self, column: str) -> str:
        parts = self.parts([column])
        first = next(parts)[column]
        state = ColumnDigest(first.dtype)
        for part in chain([first], (frame[column] for frame in parts)):
            state.update(part)
        return state.hexdigest()

    def digests(self, columns: Sequence[str], store: Store) -> dict[str, Any]:
        """What a fingerprint holds of this view: its row ids and the columns that are read."""
        return {
            "ids": self.digest("id", store),
            "columns": {name: self.digest(name, store) for name in sorted(columns)},
        }


@dataclass(frozen=True)
class Rows:
    """Some columns of a view, to be read whole or in parts.

    Attributes:
        view: The view.
        columns: The columns beside `id`.
        only: The ids of the rows that count; None for all.
    """

    view: View
    columns: tuple[str, ...]
    only: pl.Series | None = None

    def __len__(self) -> int:
        return len(self.view) if self.only is None else len(self.only)

    def read(self) -> pl.DataFrame:
        """The rows, sorted by id."""
        return self._selected(self.view.read(self.columns))

    def parts(self) -> Iterator[pl.DataFrame]:
        """The rows, of which a row group at a time is in memory."""
        return map(self._selected, self.view.parts(self.columns))

    def __getitem__(self, column: str) -> pl.Series:
        """One column of all rows."""
        return self._selected(self.view.read([column]))[column]

    def iter_slices(self, n_rows: int = ROW_GROUP) -> Iterator[pl.DataFrame]:
        """The rows in parts of some length at most, as a frame gives them."""
        for part in self.parts():
            yield from part.iter_slices(n_rows) if len(part) else [part]

    def _selected(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows if self.only is None else rows.filter(pl.col("id").is_in(self.only.implode()))


class _LayerReader:
    """Reads a layer beside the ids of a view, both in id order.

    Args:
        parts: The layer's rows.
        filters: Whether it has rows that the view has not; then `id` is among its columns.
    """

    def __init__(self, parts: Iterator[pl.DataFrame], *, filters: bool) -> None:
        self._parts, self._filters = parts, filters
        self._rest: pl.DataFrame | None = None

    def take(self, ids: pl.Series) -> pl.DataFrame:
        """The rows of the next ids, without `id`."""
        if not self._filters:
            return next(self._parts)
        selected = []
        while True:
            part = next(self._parts) if self._rest is None else self._rest
            selected.append(part.filter(pl.col("id").is_in(ids.implode())))
            if part["id"][-1] > ids[-1]:
                self._rest = part.filter(pl.col("id") > ids[-1])
                break
            self._rest = None
            if part["id"][-1] == ids[-1]:
                break
        return pl.concat(selected).drop("id")
