"""Prompts as files: `prompts/<method>/<name>.jinja`, part of the stage's fingerprint.

Blocks leave no blank lines, a file's last newline is not part of the prompt, and
a name that the caller did not give is an error instead of an empty place.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "prompts"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )


def prompt(name: str, **values: Any) -> str:
    """The text of `prompts/<name>.jinja` with the values filled in."""
    return _environment().get_template(f"{name}.jinja").render(**values)
