"""Prompts as files beside their stages: `stages/<family>/prompts/<method>/<name>.jinja`.

They are part of the stage's fingerprint. Blocks leave no blank lines, a file's last
newline is not part of the prompt, and a name that the caller did not give is an
error instead of an empty place. Only files are templates: what a model or a source
wrote is filled in as a value and is never read as one.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2

_FOLDER: Final = Path(__file__).parent


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )


def prompt(name: str, /, **values: Any) -> str:
    """The text of a prompt file with the values filled in.

    name: family, method and file: "generate/self_instruct/instructions".
    """
    return _environment().get_template(_file(name)).render(**values)


def size(*names: str) -> float:
    """Characters of a prompt file, the mean of several: about what it adds to its values."""
    lengths = [len((_FOLDER / _file(name)).read_text("utf-8")) for name in names]
    return sum(lengths) / len(lengths)


def _file(name: str) -> str:
    family, _, rest = name.partition("/")
    return f"{family}/prompts/{rest}.jinja"
