"""One random number for each row, from its id and a purpose alone."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
from numpy.typing import NDArray


def uniform(ids: pl.Series, purpose: str) -> NDArray[np.float64]:
    """One number in [0, 1) for each id, from a keyed digest of the id.

    The number depends on no other row and on no library's generator, so a row keeps it
    when rows are added. Python's loop, because the hashes of table libraries change with
    their versions.

    Args:
        ids: The ids of the rows.
        purpose: The key of the digest: the stage and its seed, such as `select.random:0`.

    Returns:
        The 53 highest bits of each digest as a fraction, shape (rows,).

    Example:
        >>> uniform(pl.Series(["a", "b"]), "select.random:0").round(3).tolist()
        [0.133, 0.998]
    """
    key = purpose.encode()
    digests = b"".join(
        hashlib.blake2b(i.encode(), digest_size=8, key=key).digest() for i in ids.to_list()
    )
    return (np.frombuffer(digests, dtype="<u8") >> np.uint64(11)) / 2.0**53
