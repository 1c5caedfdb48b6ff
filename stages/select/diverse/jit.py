"""Loops over arrays in machine code, where numpy would need several passes and copies."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])

_COMPILING: Final = threading.Lock()
"""Two threads that call a function first at the same time must not both compile it."""


def compiled(function: Function) -> Function:
    """Compile a function to machine code (numba), which releases the GIL.

    Its arguments are arrays and numbers. It is compiled when it is first called with
    arguments of these types, which takes a second or two, and cached on disk for the next
    process where a folder is writable: beside the source, or in the user's cache.
    """

    @functools.cache
    def machine_code() -> Callable[..., Any]:
        import numba  # imported only when needed: 0.2 s

        try:
            return cast(Callable[..., Any], numba.njit(cache=True, nogil=True)(function))
        except RuntimeError:  # no writable folder
            return cast(Callable[..., Any], numba.njit(nogil=True)(function))

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        with _COMPILING:
            ready = machine_code()
        return ready(*arguments)

    return cast(Function, call)
