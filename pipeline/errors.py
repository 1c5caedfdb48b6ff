"""The one error type that people see.

1. A mistake of the user's (a recipe, a path, a full disk) is a `UserError`: it
   says what is wrong, where, why, and the next command. No traceback.
2. A row that cannot be processed is no exception: it is *failed*, with a reason.
3. Whatever else is raised is a bug of ours and keeps its traceback (exit code 1).
4. Some user errors have exit codes of their own, so that programs can tell them
   apart: code drift 3, budget 5.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the command line."""

    DONE = 0
    BUG = 1
    MISTAKE = 2
    DRIFT = 3
    ROWS_FAILED = 4
    BUDGET = 5
    INTERRUPTED = 130


class UserError(Exception):
    """Something that the user can mend.

    what: the fact, in one sentence. where: recipe line, stage, file or row.
    why: the cause, when it is not plain. hint: the next command or the mend.
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

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.why:
            lines.append(f"  because: {self.why}")
        if self.hint:
            lines.append(f"  try: {self.hint}")
        return "\n".join(lines)


class OptionError(UserError):
    """An option of a stage that cannot be what it is, given the others.

    option: the option's name, or the path to it: "method.budget". The recipe's line of it
    is found by it.
    """

    def __init__(
        self, option: str, what: str, *, why: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(f"{option} {what}", why=why, hint=hint)
        self.option = option


class RecipeErrors(UserError):
    """All that is wrong with a recipe, told together, before anything runs."""

    def __init__(self, problems: list[UserError]) -> None:
        count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        super().__init__(f"{count} in the recipe")
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join([*(str(problem) for problem in self.problems), self.what])
