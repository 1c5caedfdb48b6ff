"""Prompts as files beside the module that uses them.

The prompts of `family/method.py` lie in `family/prompts/method/`, those of a package
`family/method/__init__.py` in `family/method/prompts/`. They are part of the stage's
fingerprint. Blocks leave no blank lines, a file's last newline is not part of the
prompt, and a name that the caller did not give is an error instead of an empty string.
Only files are templates: what a model or a source wrote is filled in as a value and is
never read as one.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2

from pipeline.models.counting import is_counting, note_sample


class Prompts:
    """The prompt files of one module.

    Example:
        PROMPTS = Prompts(__file__)
        PROMPTS.render("seed", passage="Rust is a language.")
    """

    def __init__(self, module_file: str) -> None:
        path = Path(module_file)
        folder = path.parent / "prompts"
        self.folder = folder if path.name == "__init__.py" else folder / path.stem

    def render(self, name: str, /, **values: Any) -> str:
        """The text of the prompt file `<name>.jinja` with the values filled in."""
        text = self._environment.get_template(f"{name}.jinja").render(**values)
        if is_counting() and (self.folder / f"{name}.answer.jinja").is_file():
            answer = self._environment.get_template(f"{name}.answer.jinja").render(**values)
            note_sample(text, answer)
        return text

    @cached_property
    def _environment(self) -> jinja2.Environment:
        return jinja2.Environment(
            loader=jinja2.FileSystemLoader(self.folder),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
        )
