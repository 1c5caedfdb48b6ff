"""A new stage to begin with: its module, its prompt, its test and its line in the changelog.

    make stage NAME=score.my_method

What is written is a small stage that works, lint and tests included; its parts are then
replaced by the method's. Nothing else has to be touched: discovery, the reference and
`gristmill stages` follow from the module.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.cli.stage_lists import update_readme
from pipeline.errors import Exit, UserError
from pipeline.recipe.discovery import available
from pipeline.stage import ROOT

TEMPLATES: Final = Path(__file__).parent / "templates"
GENERATING: Final = ("generate", "rewrite", "compose")
FILTERING: Final = ("dedup", "decontaminate", "select", "mix")
_UNRELEASED: Final = "## Unreleased\n"


def scaffold(name: str, root: Path = ROOT) -> list[Path]:
    """Write the files of a new stage.

    Args:
        name: `family.method`; the family decides what the stage begins as: one that makes
            rows, one that drops rows, or one that adds a column.
        root: The repository.

    Returns:
        The files that were written, the changelog among them.

    Raises:
        UserError: The name is not of that form, or a file is there already.
    """
    family, dot, method = name.partition(".")
    if not (dot and family.isidentifier() and method.isidentifier() and name == name.lower()):
        raise UserError(
            f"NAME must be family.method in lower case, got {name!r}",
            hint="make stage NAME=score.my_method",
        )
    if name in available():
        raise UserError(f"there is a stage {name!r} already", hint=f"gristmill stages {name}")
    kind = "generate" if family in GENERATING else "filter" if family in FILTERING else "annotate"
    values = {"family": family, "method": method, "title": method.replace("_", " ").capitalize()}
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True
    )
    files = {
        root / f"stages/{family}/{method}.py": f"{kind}.py.jinja",
        root / f"tests/stages/{family}/test_{method}.py": f"test_{kind}.py.jinja",
    }
    if kind != "filter":
        files[root / f"stages/{family}/prompts/{method}/{method}.jinja"] = f"{kind}.jinja"
    for file in files:
        if file.exists():
            raise UserError(f"{file.relative_to(root)} is there already")
    for file, template in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(environment.get_template(template).render(**values), "utf-8")
    packages = {root / f"stages/{family}": f'"""{family.capitalize()}."""\n'}
    packages |= {root / f"tests/stages/{family}": ""}
    for folder, text in packages.items():
        if not (folder / "__init__.py").exists():
            (folder / "__init__.py").write_text(text, "utf-8")
    changelog = root / "CHANGELOG.md"
    text = changelog.read_text("utf-8")
    line = f"- `{name}`: say here what a user can do with it.\n"
    changelog.write_text(text.replace(_UNRELEASED, f"{_UNRELEASED}\n{line}", 1), "utf-8")
    update_readme(root)
    return [*files, changelog]


def main() -> int:
    """The command: one name, or a mistake."""
    try:
        name = sys.argv[1] if len(sys.argv) == 2 else ""
        for file in scaffold(name):
            print(file.relative_to(ROOT))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.code)
    return int(Exit.DONE)


if __name__ == "__main__":
    sys.exit(main())
