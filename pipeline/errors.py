"""The one error type that people see.

1. A mistake of the user's (a recipe, a path, a full disk) is a `UserError`: it
   says what is wrong, where, why, and the next command. No traceback.
2. A row that cannot be processed is no exception: it is *failed*, with a reason.
3. Whatever else is raised is a bug of ours and keeps its traceback (exit code 1).
4. Some user errors have exit codes of their own, so that programs can tell them
   apart: code drift 3, budget 5, waiting for a provider's batch 6, a refused publication 7,
   a source that vanished 8, try again 9.
"""

from __future__ import annotations

import shlex
import sys
from enum import IntEnum
from pathlib import Path
from typing import Any

from pipeline import DEFAULT_STORE
from pipeline.terminal import visible


class Exit(IntEnum):
    """Exit codes of the command line."""

    DONE = 0
    BUG = 1
    MISTAKE = 2
    DRIFT = 3
    ROWS_FAILED = 4
    BUDGET = 5
    WAITING = 6
    REFUSED = 7
    SOURCE_LOST = 8
    TRY_AGAIN = 9
    INTERRUPTED = 130


def program() -> str:
    """The command that the user started, for usage lines and hints."""
    started_as = Path(sys.argv[0]).name if sys.argv else ""
    return "gristmill" if started_as == "gristmill" else "python -m pipeline"


def command_line(*words: str, store: Path) -> str:
    """A command that can be pasted, for hints.

    Args:
        words: The verb and what follows it.
        store: The store of this call, which the command names unless it is the default.

    Example:
        >>> command_line("journal", "import", "FILE", store=Path("my store"))
        "python -m pipeline journal import FILE --store 'my store'"
    """
    options = [] if store.resolve() == DEFAULT_STORE else ["--store", str(store)]
    return f"{program()} {shlex.join([*words, *options])}"


class UserError(Exception):
    """Something that the user can fix.

    Args:
        what: The fact, in one sentence: "X must be Y, got Z".
        where: Recipe line, stage, file or row.
        why: The cause, when it is not obvious.
        hint: The next command, or how to fix it.
        code: The exit code of the command line.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        why: str | None = None,
        hint: str | None = None,
        code: Exit = Exit.MISTAKE,
    ) -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.hint, self.code = what, where, why, hint, code

    def __reduce__(self) -> tuple[Any, ...]:
        # As it is: a worker's error must arrive as the error that it was.
        return _restored, (type(self), self.args, vars(self))

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.why:
            lines.append(f"  because: {self.why}")
        if self.hint:
            lines.append(f"  try: {self.hint}")
        return "\n".join(lines)

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback: a mistake of the user's has none."""
        return [f"error: {visible(str(self))}"]


def _restored(kind: type[UserError], args: tuple[Any, ...], state: dict[str, Any]) -> UserError:
    """An error that came from another process."""
    error = kind.__new__(kind, *args)
    vars(error).update(state)
    return error


class OptionError(UserError):
    """An option of a stage whose value does not fit the other options or the files.

    It is reported at the option's own line of the recipe.

    Args:
        option: The option's name, or the path to it: "method.budget".
        what: What the option must be, without its name: "must be below 5, got 7".
        why: The cause, when it is not obvious.
        hint: How to fix it.

    Example:
        >>> print(OptionError("window", "must be below `budget` (5), got 7"))
        window must be below `budget` (5), got 7
    """

    def __init__(
        self, option: str, what: str, *, why: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(f"{option} {what}", why=why, hint=hint)
        self.option = option


class RecipeErrors(UserError):
    """All mistakes of a recipe, reported together before anything runs.

    Args:
        problems: The mistakes, each with its line.

    Attributes:
        problems: The mistakes in the order of their lines, each once; what `--set` says last.
    """

    def __init__(self, problems: list[UserError]) -> None:
        distinct = {str(problem): problem for problem in problems}
        self.problems = sorted(distinct.values(), key=_position)
        count = len(self.problems)
        super().__init__(f"{count} mistake{'s' if count != 1 else ''} in the recipe")

    def __str__(self) -> str:
        return "\n".join([*(str(problem) for problem in self.problems), self.what])


def _position(problem: UserError) -> tuple[bool, str, int]:
    """The order of a location: a file before its lines, and `--set` after all files."""
    where = problem.where or ""
    file, colon, line = where.rpartition(":")
    lined = bool(colon) and line.isdecimal()
    return where.startswith("--set"), file if lined else where, int(line) if lined else 0
