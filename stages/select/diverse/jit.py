"""Loops over arrays as machine code, where numpy would need several passes and copies."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])

_ONE: Final = threading.Lock()
"""Two threads that call the same function first must not both compile it."""


def compiled(function: Function) -> Function:
    """The function in machine code (numba), during which other Python threads run.

    Its arguments are arrays and numbers. It is compiled when it is first called with
    arguments of these types, which takes a second or two, and kept on disk for the next
    process where that can be written: beside the source, or in the user's cache.
    """

    @functools.cache
    def machine_code() -> Callable[..., Any]:
        import numba  # not before it is needed: 0.2 s

        try:
            return cast(Callable[..., Any], numba.njit(cache=True, nogil=True)(function))
        except RuntimeError:  # nowhere to write
            return cast(Callable[..., Any], numba.njit(nogil=True)(function))

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        with _ONE:
            ready = machine_code()
        return ready(*arguments)

    return cast(Function, call)
