"""Prompts as Jinja files beside the module that uses them.

The prompts of `family/method.py` are the files in `family/prompts/method/`, those of a
package `family/method/__init__.py` the files in `family/method/prompts/`. They are part of
the stage's fingerprint. Blocks leave no blank lines, the last newline of a file is not part
of the prompt, and a missing value is an error instead of an empty text. Only the files are
templates: what a model or a source wrote is inserted as a value and never rendered.

Their wording is ours. A recipe can put others in their place, such as the authors' originals
(`pipeline/prompts.py`); what a stage gives to `render` by name is what these may use.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2

from pipeline.models.counting import is_counting, note_sample, rendered
from pipeline.prompts import render_replaced


class Prompts:
    """The prompt files of one module.

    Args:
        module_file: The module's `__file__`.

    Attributes:
        folder: The folder with the prompt files.

    Example:
        >>> import tempfile
        >>> module = Path(tempfile.mkdtemp()) / "fanno.py"
        >>> prompts = Prompts(str(module))
        >>> prompts.folder.mkdir(parents=True)
        >>> _ = (prompts.folder / "seed.jinja").write_text("Paragraph: {{ passage }}\\n")
        >>> prompts.render("seed", passage="What is {{ 7 * 7 }}?")
        'Paragraph: What is {{ 7 * 7 }}?'
    """

    def __init__(self, module_file: str) -> None:
        path = Path(module_file)
        folder = path.parent / "prompts"
        self.folder = folder if path.name == "__init__.py" else folder / path.stem

    def render(self, name: str, /, **values: Any) -> str:
        """The text of the prompt file `<name>.jinja` with the values inserted.

        Raises:
            jinja2.UndefinedError: A value that the file needs is missing.
            UserError: A recipe's replacement of the file cannot be rendered.
        """
        return rendered(str(self.folder / name), lambda: self._render(name, values))

    def _render(self, name: str, values: dict[str, Any]) -> str:
        text = render_replaced(self.folder, f"{name}.jinja", values)
        if text is None:
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
            auto_reload=False,  # checking the file takes as long as rendering it
        )
