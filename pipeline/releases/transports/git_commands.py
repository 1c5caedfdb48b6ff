"""Running git: without questions on the terminal, with Git LFS where it is installed.

What git says on failure becomes `TryLater` or an error that a person can act on.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pipeline.errors import UserError
from pipeline.remote.waiting import TryLater

_LFS_OPTIONS: Final = (
    "-c", "filter.lfs.clean=git-lfs clean -- %f", "-c", "filter.lfs.smudge=git-lfs smudge -- %f",
    "-c", "filter.lfs.process=git-lfs filter-process", "-c", "filter.lfs.required=true",
)  # fmt: skip
_MOVED: Final = re.compile(r"rejected|stale info|fetch first|cannot lock ref|atomic push failed")
_REFUSED: Final = re.compile(
    r"Authentication failed|Permission denied|could not read (?:Username|Password)|error: 403"
    r"|insufficient permission",
    re.IGNORECASE,
)
_UNREACHABLE: Final = re.compile(
    r"Could not resolve|Connection (?:refused|reset|timed out)|timed out|unable to access"
    r"|early EOF|hung up|unexpected disconnect|error: (?:429|5\d\d)",
    re.IGNORECASE,
)


def has_lfs() -> bool:
    """Whether `git lfs` is installed."""
    return shutil.which("git-lfs") is not None


def run_git(
    words: tuple[str, ...],
    folder: Path,
    shown: tuple[str, str],
    env: Mapping[str, str] | None = None,
) -> str:
    """The output of a git command.

    Args:
        words: The command and its arguments.
        folder: Where it runs.
        shown: The remote's address, which may hold a password, and what people see of it.
        env: Variables of the environment beside those of this process.

    Raises:
        TryLater: The remote has moved on, or cannot be reached.
        UserError: The remote refuses, or git fails.
    """
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1", "LC_ALL": "C"}
    lfs = _LFS_OPTIONS if has_lfs() else ()
    done = subprocess.run(
        ["git", "-c", "core.autocrlf=false", "-c", "gc.auto=0", *lfs, *words],
        cwd=folder,
        env={**os.environ, **quiet, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise _error(words, done.stderr.decode("utf-8", "replace"), shown)
    return done.stdout.decode("utf-8", "surrogateescape")


def _error(words: tuple[str, ...], stderr: str, shown: tuple[str, str]) -> Exception:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    why, address = " ".join(lines[-3:]).replace(*shown), shown[1]
    if words[0] == "push" and _MOVED.search(stderr):
        return TryLater(f"the repository has moved on: {why}")
    if _REFUSED.search(stderr):
        hint = "check the key or the credential helper that git uses for this host"
        what = "the repository refuses to let this account write"
        return UserError(what, where=address, why=why, hint=hint)
    if _UNREACHABLE.search(stderr):
        return TryLater(why)
    return UserError(f"git {words[0]} fails", where=address, why=why)
