"""The list of stages in the README, written from the stages themselves.

`make docs` and `make stage` write it anew, so that a new stage is listed without anybody
listing it.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

from pipeline.recipe.discovery import available
from pipeline.stage import ROOT

BEGIN: Final = "<!-- stages: written by make docs -->"
END: Final = "<!-- end of stages -->"


def stage_table(root: Path = ROOT) -> str:
    """A table of all families: what each is for, and its stages.

    Args:
        root: The repository whose `stages/` is listed; nothing is imported.
    """
    families: dict[str, list[str]] = {}
    for name in available(root / "stages"):
        family, _, method = name.partition(".")
        families.setdefault(family, []).append(f"`{method}`")
    rows = [
        f"| {family} | {_purpose(root / 'stages' / family)} | {' '.join(methods)} |"
        for family, methods in families.items()
    ]
    return "\n".join(["| family | what it is for | stages |", "|---|---|---|", *rows])


def update_readme(root: Path = ROOT) -> bool:
    """Write the table between its marks in the README; whether anything changed."""
    readme = root / "README.md"
    text = readme.read_text("utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        return False
    new = f"{head}{BEGIN}\n{stage_table(root)}\n{END}{tail}"
    readme.write_text(new, "utf-8")
    return new != text


def _purpose(family: Path) -> str:
    """The first line of the family's docstring."""
    file = family / "__init__.py"
    text = ast.get_docstring(ast.parse(file.read_text("utf-8"))) if file.is_file() else ""
    return (text or "").split("\n")[0].rstrip(".")
