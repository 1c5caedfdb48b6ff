"""A canonical encoding of JSON values, and digests over it.

Fingerprints are digests of what decides a result, so the encoding must be stable
across processes and machines, and two different values must never look alike. It
is JSON with sorted keys over null, booleans, integers, finite floats, strings,
lists and string-keyed mappings. Anything else is refused: a callable or an
object's repr would make a key that changes from run to run.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final, cast

import numpy as np
import polars as pl

_BATCH: Final = 4_096
"""Strings concatenated at a time: their memory is reused for the next, and fits the CPU's cache."""

_ROWS: Final = 65_536
"""Values that are spooled at a time."""

_SPOOLED: Final = 1 << 18
"""Bytes of a spool that are kept in memory."""

_BLOCK: Final = 1 << 20
"""Bytes read from a spool at a time: a multiple of 8, since null masks are packed."""


def to_json_value(value: Any, where: str = "value") -> Any:
    """The value with tuples as lists and dataclasses as mappings.

    Args:
        value: Any nesting of JSON values, tuples, mappings and dataclass instances.
        where: What the value is called in an error message.

    Raises:
        TypeError: Something in it has no stable encoding; the message says where.

    Example:
        >>> to_json_value({"sizes": (1, 2)})
        {'sizes': [1, 2]}
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
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where}: keys must be strings, got {key!r}")
        return {k: to_json_value(v, f"{where}.{k}") for k, v in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: to_json_value(getattr(value, f.name), f"{where}.{f.name}")
            for f in fields(value)
        }
    raise TypeError(
        f"{where}: {type(value).__qualname__} has no stable encoding; "
        "pass JSON values, or a file by its content"
    )


def encode(value: Any) -> bytes:
    """The canonical bytes of a value.

    Raises:
        TypeError: Something in it has no stable encoding.

    Example:
        >>> encode({"b": 1.0, "a": None})
        b'{"a":null,"b":1.0}'
    """
    return json.dumps(
        to_json_value(value),
        sort_keys=True,
        ensure_ascii=False,
        separators=(",", ":"),
        allow_nan=False,
    ).encode("utf-8", "surrogatepass")


def digest(value: Any) -> str:
    """32 hex digits that stand for the value.

    Example:
        >>> digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
        True
    """
    return hashlib.blake2b(encode(value), digest_size=16).hexdigest()


def column_digest(column: pl.Series) -> str:
    """32 hex digits that stand for a column's values in order, however it is chunked.

    Raises:
        TypeError: The column's type holds Python objects.

    Example:
        >>> column_digest(pl.Series(["ab", "c"])) == column_digest(pl.Series(["a", "bc"]))
        False
    """
    digest = ColumnDigest(column.dtype)
    for part in column.to_frame().iter_slices(_ROWS):
        digest.update(part.to_series())
    return digest.hexdigest()


class ColumnDigest:
    """A column's digest from its parts, of which none is kept in memory.

    The null mask, lengths and values are hashed level by level, so that no two columns
    collide; what one level has of each part is spooled until the levels before it are complete.

    Args:
        dtype: The column's type.
        folder: Where long spools are written; by default among temporary files.

    Example:
        >>> parts = ColumnDigest(pl.String())
        >>> parts.update(pl.Series(["a"]))
        >>> parts.update(pl.Series(["b"]))
        >>> parts.hexdigest() == column_digest(pl.Series(["a", "b"]))
        True
    """

    def __init__(self, dtype: pl.DataType, folder: Path | None = None) -> None:
        self._dtype, self._folder = dtype, None if folder is None else str(folder)
        self._rows = 0
        self._spools: list[tuple[bool, IO[bytes]]] = []

    def update(self, part: pl.Series) -> None:
        """Add the next values.

        Raises:
            TypeError: The column's type holds Python objects.
        """
        self._rows += len(part)
        for number, (is_mask, values) in enumerate(_levels(part.rechunk())):
            if number == len(self._spools):
                spool = SpooledTemporaryFile(_SPOOLED, dir=self._folder)  # noqa: SIM115
                self._spools.append((is_mask, cast("IO[bytes]", spool)))
            for buffer in values:
                self._spools[number][1].write(buffer)

    def hexdigest(self) -> str:
        """The digest; nothing may be added after it."""
        state = hashlib.blake2b(digest_size=16)
        state.update(f"{self._rows}:{self._dtype}".encode())
        if not self._rows:
            self.update(pl.Series([], dtype=self._dtype))
        for is_mask, spool in self._spools:
            with spool:
                spool.seek(0)
                while block := spool.read(_BLOCK):
                    is_null = np.frombuffer(block, dtype=np.bool_) if is_mask else None
                    state.update(block if is_null is None else np.packbits(is_null).tobytes())
        return state.hexdigest()


def _levels(column: pl.Series) -> Iterator[tuple[bool, Iterable[Any]]]:
    """Null mask (True), then lengths and values, of each level: as many for all columns of a type.

    Raises:
        TypeError: The column's type holds Python objects.
    """
    yield True, [column.is_null().to_numpy().tobytes()]
    dtype = column.dtype
    if isinstance(dtype, pl.Struct):
        for field in dtype.fields:
            yield from _levels(column.struct.field(field.name))
    elif isinstance(dtype, pl.List):
        yield False, [column.list.len().fill_null(0).to_numpy().tobytes()]
        lists = column.drop_nulls()
        yield from _levels(lists.filter(lists.list.len() > 0).explode())
    elif dtype == pl.String:
        yield False, [column.str.len_bytes().fill_null(0).to_numpy().tobytes()]
        texts = column.drop_nulls().to_frame()
        yield False, (_concat_bytes(part.to_series()) for part in texts.iter_slices(_BATCH))
    else:
        values = column.drop_nulls().to_numpy()
        if values.dtype.hasobject:
            # The bytes of an array of objects are addresses, which change from run to run.
            raise TypeError(f"a column of type {dtype} has no stable encoding")
        yield False, [values.tobytes()]


def _concat_bytes(texts: pl.Series) -> Any:
    """The concatenated bytes of the strings: Arrow's old layout holds them like that."""
    _, _, data = texts.to_arrow(compat_level=pl.CompatLevel.oldest()).buffers()
    return data or b""


def row_keys(frame: pl.DataFrame) -> pl.Series:
    """One key per row that stands for the row's values.

    Args:
        frame: n rows.

    Returns:
        n strings of 32 hex digits, named "key".

    Example:
        >>> row_keys(pl.DataFrame({"x": [1, 2, 1]})).n_unique()
        2
    """
    # JSON has one null for missing values, NaN and infinities.
    exact = frame.with_columns(pl.col(c).cast(_floats_as_text(t)) for c, t in frame.schema.items())
    rows = exact.select(pl.struct(pl.all()).struct.json_encode().alias("row"))["row"]
    keys = [hashlib.blake2b(row.encode(), digest_size=16).hexdigest() for row in rows]
    return pl.Series("key", keys, dtype=pl.String)


def _floats_as_text(dtype: Any) -> Any:
    """The polars type with strings in place of floats, at any depth."""
    if dtype.is_float():
        return pl.String()
    if isinstance(dtype, pl.List):
        return pl.List(_floats_as_text(dtype.inner))
    if isinstance(dtype, pl.Struct):
        return pl.Struct({field.name: _floats_as_text(field.dtype) for field in dtype.fields})
    return dtype
