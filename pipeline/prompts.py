"""Prompts that a recipe puts in the place of a stage's own.

    prompts:
      judge/quality: my/quality.jinja

A replacement is a template of a stranger, perhaps from a bundle: it is rendered in Jinja's
sandbox, can include nothing but prompts of the stage, and gives the same text for the same
values. While a stage runs, `stages/_llm/prompts.py` asks here whether a prompt is replaced.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.meta import find_referenced_templates, find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.errors import UserError


@dataclass(frozen=True)
class Replacement:
    """A template in the place of a prompt.

    Args:
        name: The stable name of the prompt that it replaces; see `code_hash.prompts`.
        file: The file of that prompt.
        path: The file of the template.
        content: Its bytes, as they were when the recipe was loaded.
    """

    name: str
    file: Path
    path: Path
    content: bytes = field(repr=False)

    @property
    def digest(self) -> str:
        """sha256 of its bytes, 64 hex digits: what the fingerprint holds of it."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def text(self) -> str:
        """Its text.

        Raises:
            UnicodeDecodeError: It is not UTF-8.
        """
        return self.content.decode("utf-8-sig")

    def below(self, folder: Path) -> str | None:
        """The name of the replaced file below a folder; None where it lies elsewhere."""
        file, base = os.path.realpath(self.file), os.path.realpath(folder)
        return os.path.relpath(file, base) if file.startswith(base + os.sep) else None


_replacements: ContextVar[tuple[Replacement, ...]] = ContextVar("replacements", default=())


@contextmanager
def replaced(replacements: tuple[Replacement, ...]) -> Iterator[None]:
    """Within it, these templates are rendered instead of the files that they replace."""
    token = _replacements.set(replacements)
    try:
        yield
    finally:
        _replacements.reset(token)


def render_replaced(folder: Path, name: str, values: Mapping[str, Any]) -> str | None:
    """The text of a prompt where a recipe replaces it, or others beside it that it may include.

    Args:
        folder: The folder of the prompts of one module.
        name: The file's name below it.
        values: What is inserted.

    Returns:
        The text; None where all of the folder's prompts are the stage's own.

    Raises:
        UserError: A template cannot be rendered with these values.
    """
    replacements = _replacements.get()
    environment = _sandbox(folder, replacements) if replacements else None
    if environment is None:
        return None
    try:
        return environment.get_template(name).render(**values)
    except Exception as error:  # whatever an expression of a template raises
        paths = [str(one.path) for one in replacements if one.below(folder) == name]
        raise UserError(
            "the prompt cannot be rendered",
            where=(paths or [str(folder / name)])[0],
            why=f"{type(error).__name__}: {error}",
            hint="mend the template; `stages NAME --prompts` prints the one that it replaces",
        ) from None


@lru_cache(maxsize=256)
def _sandbox(folder: Path, replacements: tuple[Replacement, ...]) -> jinja2.Environment | None:
    """Renders the prompts of a folder, of which some are replaced; None where none is."""
    texts = {name: one.text for one in replacements if (name := one.below(folder))}
    files = jinja2.FileSystemLoader(folder)
    return _environment([jinja2.DictLoader(texts), files]) if texts else None


def _environment(loaders: Sequence[jinja2.BaseLoader]) -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        loader=jinja2.ChoiceLoader(loaders),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    # A prompt is a function of its values: the same ones give the same request.
    del environment.globals["lipsum"], environment.filters["random"]
    return environment


def variables_of(text: str, folder: Path) -> set[str]:
    """The variables that a template takes from outside, those of what it includes among them.

    Args:
        text: The template.
        folder: Where the prompts lie that it may include.

    Raises:
        jinja2.TemplateError: It is no template, or uses a filter or a file that there is not.

    Example:
        >>> text = "{% for task in tasks %}{{ task }}: {{ count }}{% endfor %}"
        >>> sorted(variables_of(text, Path("nowhere")))
        ['count', 'tasks']
    """
    environment = _environment([jinja2.FileSystemLoader(folder)])
    variables: set[str] = set()
    waiting, included = [text], set()
    while waiting:
        source = waiting.pop()
        environment.from_string(source)  # knows which filters there are
        tree = environment.parse(source)
        variables |= find_undeclared_variables(tree) - {*environment.globals}
        for name in find_referenced_templates(tree):
            if name is None:
                raise jinja2.TemplateError("it must say the name of the prompt that it includes")
            if name not in included:
                included.add(name)
                waiting.append(_source(environment, name))
    return variables


def _source(environment: jinja2.Environment, name: str) -> str:
    """The text of a prompt that a template includes."""
    assert environment.loader is not None
    try:
        return environment.loader.get_source(environment, name)[0]
    except jinja2.TemplateNotFound:
        what = f"it includes {name!r}, which is no prompt beside the one that it replaces"
        raise jinja2.TemplateError(what) from None
