"""A canonical encoding of plain values, and digests over it.

Fingerprints are digests of what decides a result, so the encoding must be stable
across processes and machines, and two different values must never look alike. It
is JSON with sorted keys over null, booleans, integers, finite floats, texts,
lists and string-keyed mappings. Whatever else comes is refused: a callable or an
object's repr would make a key that changes from run to run.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

import numpy as np
import polars as pl

_TEXTS: Final = 4_096
"""Texts joined at a time: their memory serves the next ones too, and stays in the cache."""


def to_json_value(value: Any, where: str = "value") -> Any:
    """The value with tuples as lists and dataclasses as mappings.

    Raises TypeError, naming the place, for what has no stable encoding.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(
                f"{where}: {value} has no canonical encoding; use null or a finite number"
            )
        return value
    if isinstance(value, list | tuple):
        return [to_json_value(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, Mapping):
        bad = next((k for k in value if not isinstance(k, str)), None)
        if bad is not None:
            raise TypeError(f"{where}: the key {bad!r} is no text")
        return {k: to_json_value(v, f"{where}.{k}") for k, v in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: to_json_value(getattr(value, f.name), f"{where}.{f.name}")
            for f in fields(value)
        }
    kind = type(value).__qualname__
    raise TypeError(
        f"{where}: {kind} has no stable encoding; pass plain values, or a file by content"
    )


def encode(value: Any) -> bytes:
    """The canonical bytes of a value."""
    return json.dumps(
        to_json_value(value),
        sort_keys=True,
        ensure_ascii=False,
        separators=(",", ":"),
        allow_nan=False,
    ).encode("utf-8", "surrogatepass")


def digest(value: Any) -> str:
    """32 hex digits that stand for the value."""
    return hashlib.blake2b(encode(value), digest_size=16).hexdigest()


def column_digest(column: pl.Series) -> str:
    """32 hex digits that stand for a column's values in order, however it is chunked."""
    state = hashlib.blake2b(digest_size=16)
    state.update(f"{len(column)}:{column.dtype}".encode())
    _feed(state, column.rechunk())
    return state.hexdigest()


def _feed(state: hashlib.blake2b, column: pl.Series) -> None:
    """Absorb null mask, lengths and values, level by level, so that no two columns collide."""
    state.update(np.packbits(column.is_null().to_numpy()).tobytes())
    dtype = column.dtype
    if isinstance(dtype, pl.Struct):
        for field in dtype.fields:
            _feed(state, column.struct.field(field.name))
    elif isinstance(dtype, pl.List):
        state.update(column.list.len().fill_null(0).to_numpy().tobytes())
        _feed(state, column.drop_nulls().filter(column.drop_nulls().list.len() > 0).explode())
    elif dtype == pl.String:
        state.update(column.str.len_bytes().fill_null(0).to_numpy().tobytes())
        texts = column.drop_nulls()
        for part in texts.to_frame().iter_slices(_TEXTS):
            state.update(_joined(part.to_series()))
    else:
        values = column.drop_nulls().to_numpy()
        if values.dtype.hasobject:
            # The bytes of an array of objects are addresses, which change from run to run.
            raise TypeError(f"a column of type {dtype} has no stable encoding")
        state.update(values.tobytes())


def _joined(texts: pl.Series) -> Any:
    """The bytes of the texts one behind the other: Arrow's old layout holds them like that."""
    _, _, data = texts.to_arrow(compat_level=pl.CompatLevel.oldest()).buffers()
    return data or b""


def row_keys(frame: pl.DataFrame) -> pl.Series:
    """One key per row that stands for the row's values: String of length len(frame)."""
    # JSON has one word, null, for what is missing and for numbers that are none.
    exact = frame.with_columns(pl.col(c).cast(_spelled(t)) for c, t in frame.schema.items())
    texts = exact.select(pl.struct(pl.all()).struct.json_encode().alias("row"))["row"]
    keys = [hashlib.blake2b(text.encode(), digest_size=16).hexdigest() for text in texts]
    return pl.Series("key", keys, dtype=pl.String)


def _spelled(dtype: Any) -> Any:
    """The polars type with texts in place of floats, at any depth."""
    if dtype.is_float():
        return pl.String()
    if isinstance(dtype, pl.List):
        return pl.List(_spelled(dtype.inner))
    if isinstance(dtype, pl.Struct):
        return pl.Struct({field.name: _spelled(field.dtype) for field in dtype.fields})
    return dtype
