"""Template files, in the layouts in which their authors publish them.

- FLAN's `templates.py`: the dictionary `PATTERNS` of (input pattern, target pattern) pairs by
  task. It is read as text and never run.
- The same as JSON lines: `task`, `index`, `input_pattern`, `target_pattern`.
- promptsource's `templates.yaml`: Jinja templates of one data set with `answer_choices`.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from pipeline.errors import UserError
from pipeline.hints import suggest
from stages.load._files.container import container
from stages.load._files.positions import positions
from stages.load._files.stream import Stream, head
from stages.load.tasks.rendering import Template

_COLUMNS: Final = ("task", "input_pattern", "target_pattern")
_MAX_BYTES: Final = 16 << 20
"""The largest template file: promptsource's largest has 60 kB."""


class PatternSource(NamedTuple):
    """A pair of patterns with fields in braces.

    Attributes:
        template: Where it stands.
        prompt: The pattern of the prompt.
        target: The pattern of the target.
    """

    template: Template
    prompt: str
    target: str


class JinjaSource(NamedTuple):
    """A template of promptsource.

    Attributes:
        template: Where it stands.
        jinja: Prompt and target with `|||` between them.
        answer_choices: The expression that gives the answers; None where any text may be one.
        is_original: Whether it asks for what the data set was made for.
    """

    template: Template
    jinja: str
    answer_choices: str | None
    is_original: bool


def read_patterns(path: Path, name: str) -> tuple[PatternSource, ...]:
    """The patterns of one task.

    Args:
        path: FLAN's `templates.py`, or JSON lines.
        name: Whose patterns.

    Raises:
        UserError: The file is no such file, or has none of this name.
    """
    modified = path.stat().st_mtime_ns
    sets = _python_patterns(path, modified) if path.suffix == ".py" else _rows(path, modified)
    if name not in sets:
        hint = suggest(name, sets) or "template_set: NAME, one of the file's own"
        raise UserError(f"{path.name} has no templates of {name!r}", hint=hint)
    return sets[name]


@lru_cache(maxsize=4)
def _python_patterns(path: Path, modified: int) -> dict[str, tuple[PatternSource, ...]]:
    """The literal `PATTERNS` of a Python file."""
    try:
        nodes = ast.parse(_text(path)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path.name} cannot be read as Python", why=str(error)) from None
    for node in nodes:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        if any(isinstance(t, ast.Name) and t.id == "PATTERNS" for t in targets):
            value = node.value  # type: ignore[attr-defined]
            if isinstance(value, ast.Dict):
                return dict(
                    _python_set(path, *pair) for pair in zip(value.keys, value.values, strict=True)
                )
    raise UserError(f"{path.name} has no dictionary PATTERNS", hint="FLAN's flan/templates.py")


def _python_set(
    path: Path, key: ast.expr | None, value: ast.expr
) -> tuple[str, tuple[PatternSource, ...]]:
    try:
        name = ast.literal_eval(key) if key else ""
        pairs = ast.literal_eval(value)
        lines = [element.lineno for element in value.elts]  # type: ignore[attr-defined]
        sources = []
        for index, ((prompt, target), line) in enumerate(zip(pairs, lines, strict=True)):
            template = Template(f"{name}/{index}", path.name, line)
            sources.append(_pattern(template, prompt, target))
        return str(name), tuple(sources)
    except (ValueError, TypeError, AttributeError) as error:
        what = "PATTERNS must be lists of (input pattern, target pattern) by task"
        raise UserError(what, where=f"{path.name}:{value.lineno}", why=str(error)) from None


def _pattern(template: Template, prompt: Any, target: Any) -> PatternSource:
    if not isinstance(prompt, str) or not isinstance(target, str):
        raise ValueError(f"a pattern must be a text, got {prompt!r} and {target!r}")
    return PatternSource(template, prompt, target)


@lru_cache(maxsize=4)
def _rows(path: Path, modified: int) -> dict[str, tuple[PatternSource, ...]]:
    """The patterns of a file of rows, by task."""
    sets: dict[str, list[PatternSource]] = {}
    for line, row, error in positions(Stream(path), container(path, head(path)[0]), frozenset()):
        where = f"{path.name}:{line}"
        missing = (
            [c for c in _COLUMNS if not isinstance((row or {}).get(c), str)] if not error else []
        )
        if error or missing:
            what = f"a template must have the texts {', '.join(_COLUMNS)}"
            raise UserError(what, where=where, why=error or f"it has no {', '.join(missing)}")
        patterns = sets.setdefault(row["task"], [])
        template = Template(f"{row['task']}/{row.get('index', len(patterns))}", path.name, line)
        patterns.append(_pattern(template, row["input_pattern"], row["target_pattern"]))
    return {name: tuple(patterns) for name, patterns in sets.items()}


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path.name} must be at most {_MAX_BYTES >> 20} MiB, it is larger")
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise UserError(f"{path.name} cannot be read as templates", why=why) from None


class _Loader(yaml.SafeLoader):
    """Reads promptsource's YAML, whose mappings have tags of its Python classes."""


def _tagged(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    return {**loader.construct_mapping(node, deep=True), _LINE: node.start_mark.line + 1}


_LINE: Final = "line of the file"
for _tag in ("!Template", "!TemplateMetadata"):
    _Loader.add_constructor(_tag, _tagged)


@lru_cache(maxsize=64)
def _yaml_templates(path: Path, modified: int) -> tuple[JinjaSource, ...]:
    try:
        content = yaml.load(_text(path), _Loader)  # a safe loader with two tags more
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path.name}:{mark.line + 1}" if mark else path.name
        why = str(getattr(error, "problem", None) or error)
        raise UserError("the templates are not valid YAML", where=where, why=why) from None
    templates = content.get("templates") if isinstance(content, dict) else None
    if not isinstance(templates, dict) or not templates:
        hint = "promptsource's templates.yaml; other templates are JSON lines or FLAN's Python"
        raise UserError(f"{path.name} has no mapping `templates`", hint=hint)
    return tuple(_jinja(path, str(key), raw) for key, raw in templates.items())


def _jinja(path: Path, key: str, raw: Any) -> JinjaSource:
    raw = raw if isinstance(raw, dict) else {}
    where = f"{path.name}:{raw[_LINE]}" if _LINE in raw else path.name
    jinja, choices = raw.get("jinja"), raw.get("answer_choices")
    if isinstance(choices, list):  # as older files have them
        choices = " ||| ".join(map(str, choices))
    if not isinstance(jinja, str) or not isinstance(choices, str | None):
        what = f"template {key} must have the text `jinja` and may have the text `answer_choices`"
        raise UserError(what, where=where)
    metadata = raw.get("metadata")
    is_original = metadata.get("original_task") if isinstance(metadata, dict) else None
    template = Template(str(raw.get("name") or key), path.name, raw.get(_LINE, 1))
    return JinjaSource(template, jinja, choices or None, is_original is not False)


def read_jinja(path: Path) -> tuple[JinjaSource, ...]:
    """The templates of a data set.

    Args:
        path: promptsource's `templates.yaml`.

    Raises:
        UserError: The file is no such file.
    """
    return _yaml_templates(path, path.stat().st_mtime_ns)
