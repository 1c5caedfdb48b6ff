"""The mixing function of splitmix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every input bit over all 64 bits; one to one.

    Args:
        values: Any integers.

    Returns:
        As many integers: the outputs of splitmix64 in these states.

    Example:
        The first output after the seed 0:

        >>> hex(mix64(np.array([0x9E3779B97F4A7C15], np.uint64)).item())
        '0xe220a8397b1dcdaf'
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
