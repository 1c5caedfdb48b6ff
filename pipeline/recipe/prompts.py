"""The section `prompts` of a recipe: templates in the place of the stages' own prompts.

    prompts:
      judge/quality: my/quality.jinja       # beside the recipe

A prompt is named by its stage and its file, `judge/quality`; where that means several, by all
that leads to it, `backtranslate/humback/instruction`. `stages NAME --prompts` prints the names.
What a template may use is known before anything runs: what the stage's own prompt uses, and
what the code that renders it gives by name.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import jinja2

from pipeline.hints import suggest
from pipeline.prompts import Replacement, variables_of
from pipeline.recipe.code_hash import SAMPLE_ANSWER, used_prompts
from pipeline.recipe.options import existing
from pipeline.recipe.problems import Problem
from pipeline.stage import ROOT, Stage

SUFFIX: Final = ".jinja"
MAX_BYTES: Final = 1 << 20
"""The longest template."""


class Prompt(NamedTuple):
    """A prompt of a stage.

    Attributes:
        name: Its name in a recipe.
        key: Its stable name, by which fingerprints hold it.
        file: Its file.
    """

    name: str
    key: str
    file: Path

    @property
    def text(self) -> str:
        """What the file holds."""
        return self.file.read_text("utf-8")

    @property
    def variables(self) -> set[str]:
        """What a template in its place may use."""
        return self.used | _named_values(self.file)

    @property
    def used(self) -> set[str]:
        """What it uses itself."""
        return variables_of(self.text, self.folder)

    @property
    def folder(self) -> Path:
        """Where the prompts lie that it may include."""
        return _renderer(self.file).folder


def prompts_of(stage: Stage) -> list[Prompt]:
    """The prompts of a stage, in the order of their files."""
    files = _templates(used_prompts(stage))
    names = _names([*_shipped(), *files])
    return [Prompt(names[key][0], key, file) for key, file in files.items()]


def read_prompts(
    raw: Mapping[Any, Any], folder: Path, stages: Sequence[Stage], *, complete: bool
) -> tuple[list[Replacement], list[Problem]]:
    """The templates of the section, and all that is wrong with them.

    Args:
        raw: The section: names of prompts and paths of templates; null leaves a prompt as it is.
        folder: Where relative paths are looked for first; then in the repository.
        stages: The stages of the recipe.
        complete: Whether these are all of them: others had mistakes of their own.
    """
    used: dict[str, Path] = {}
    for stage in stages:
        used |= _templates(used_prompts(stage))
    names = _names([*_shipped(), *used])
    keys = _keys(names)
    replacements, problems = [], []
    for name, path in raw.items():
        key = keys.get(str(name))
        if key is None:
            hint = suggest(str(name), [names[k][0] for k in used])
            problems.append(_problem(name, f"there is no prompt {name!r}", hint, "unknown"))
        elif key not in used and complete:
            what = f"no stage of the recipe uses the prompt {name!r}"
            problems.append(_problem(name, what, suggest(str(name), [names[k][0] for k in used])))
        elif path is not None and key in used:
            prompt = Prompt(names[key][0], key, used[key])
            replacement, problem = _read(str(name), prompt, path, folder)
            replacements += [replacement] if replacement else []
            problems += [problem] if problem else []
    repeated = [key for key, n in Counter(one.name for one in replacements).items() if n > 1]
    problems += [
        _problem(names[key][0], f"the prompt {names[key][0]!r} is replaced twice")
        for key in repeated
    ]
    return replacements, problems


def _problem(name: Any, what: str, hint: str | None = None, kind: Any = "value") -> Problem:
    return Problem((str(name),), what, hint, kind)


def _read(
    name: str, prompt: Prompt, path: Any, folder: Path
) -> tuple[Replacement | None, Problem | None]:
    """The template at a path, or what is wrong with it."""
    if not isinstance(path, str) or not path:
        return None, _problem(name, f"{name} must be the path of a template, got {path!r}")
    file = Path(existing(path, folder))
    if not file.is_file():
        return None, _problem(name, f"{name}: there is no file {path}")
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            return None, _problem(name, f"{path} must have at most {MAX_BYTES:,} bytes, got more")
        replacement = Replacement(prompt.key, prompt.file, file, content)
        unknown = sorted(variables_of(replacement.text, prompt.folder) - prompt.variables)
    except OSError as error:
        return None, _problem(name, f"{path} cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        return None, _problem(name, f"{path} must be UTF-8: {error.reason}")
    except jinja2.TemplateSyntaxError as error:
        return None, _problem(name, f"{path}:{error.lineno}: {error.message}")
    except (jinja2.TemplateError, RecursionError) as error:
        return None, _problem(name, f"{path}: {error}")
    if unknown:
        what = f"{path} uses {', '.join(unknown)}, which the stage does not give to {prompt.name}"
        return None, _problem(name, what, _given_hint(unknown[0], prompt))
    return replacement, None


def _given_hint(unknown: str, prompt: Prompt) -> str:
    available = sorted(prompt.variables)
    hint = suggest(unknown, available) or ""
    listed = f"it gives: {', '.join(available)}" if available else "it gives none"
    return listed if hint.startswith("there are") or not hint else f"{hint} ({listed})"


def prompt_key(name: str, keys: Iterable[str]) -> str | None:
    """The stable name of the prompt that a recipe calls by a name; None where there is none.

    Args:
        name: What the recipe says.
        keys: Stable names of prompts beside those of the project's own stages.
    """
    return _keys(_names([*_shipped(), *keys])).get(name)


def with_prompts(stage: Stage, replacements: Iterable[Replacement]) -> tuple[Replacement, ...]:
    """Those of a recipe's templates that stand in the place of prompts of this stage.

    Args:
        stage: The stage.
        replacements: All templates of the recipe.
    """
    own = used_prompts(stage)
    return tuple(one for one in replacements if one.name in own)


def prompt_notes(stages: Iterable[Stage]) -> list[str]:
    """What templates of a recipe leave out that the prompts in whose place they stand show.

    Args:
        stages: The stages of the recipe.
    """
    notes: dict[str, None] = {}
    for stage in stages:
        names = {prompt.key: prompt for prompt in prompts_of(stage)} if stage.prompts else {}
        for replacement in stage.prompts:
            prompt = names[replacement.name]
            missing = sorted(prompt.used - variables_of(replacement.text, prompt.folder))
            if missing:
                notes[
                    f"{replacement.path.name}, in the place of {prompt.name}, does not use "
                    f"{', '.join(missing)}: the model will not see that"
                ] = None
    return [*notes]


def _templates(files: Mapping[str, Path]) -> dict[str, Path]:
    return {key: file for key, file in files.items() if file.suffix == SUFFIX}


@cache
def _shipped() -> dict[str, Path]:
    """All prompts of the project's stages by their stable names."""
    files = sorted((ROOT / "stages").rglob(f"prompts/**/*{SUFFIX}"))
    listed = [file for file in files if not file.name.endswith(SAMPLE_ANSWER)]
    return {file.relative_to(ROOT).as_posix(): file for file in listed}


def _keys(names: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {name: key for key, accepted in names.items() for name in accepted}


def _names(keys: Iterable[str]) -> dict[str, list[str]]:
    """The names by which a recipe may call each prompt, the one that is printed first."""
    forms = {key: [*dict.fromkeys(_forms(key))] for key in keys}
    counts = Counter(form for several in forms.values() for form in several)
    # The whole path means one prompt, whatever the others are called.
    return {
        key: [form for form in several[:-1] if counts[form] == 1] + several[-1:]
        for key, several in forms.items()
    }


def _forms(key: str) -> Iterator[str]:
    """Names for a prompt, the shortest first: its stage and file, the way to it, its whole path.

    Example:
        >>> list(_forms("stages/score/judge/prompts/rating/quality.jinja"))
        ['judge/quality', 'judge/rating/quality', 'score/judge/rating/quality']
    """
    path = PurePosixPath(key).with_suffix("").parts
    # Modules with an underscore are nobody's business but the family's.
    parts = [part for part in path if part != "prompts" and not part.startswith("_")]
    if parts[0] == "stages":
        _, *parts = parts
        inner = parts[1:] if len(parts) > 2 else parts
    else:
        inner = parts[-2:]
    yield f"{inner[0]}/{inner[-1]}"
    yield "/".join(inner)
    yield "/".join(parts)


@cache
def _named_values(file: Path) -> frozenset[str]:
    """The values that the module beside a prompt gives to it by name, as its source says.

    A call that renders a prompt whose name is computed may mean any that no other names.
    """
    renderer = _renderer(file)
    if not renderer.module.is_file():
        return frozenset()
    calls = [
        node
        for node in ast.walk(ast.parse(renderer.module.read_bytes()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "render"
        and node.args
    ]
    constants = {call: ast.unparse(call.args[0]) for call in calls if _is_constant(call)}
    named = [call for call, name in constants.items() if name == repr(renderer.name)]
    computed = [call for call in calls if call not in constants]
    return frozenset(k.arg for call in named or computed for k in call.keywords if k.arg)


def _is_constant(call: ast.Call) -> bool:
    return isinstance(call.args[0], ast.Constant)


class _Renderer(NamedTuple):
    """Who renders a prompt.

    Attributes:
        module: The file of the module.
        folder: The folder of its prompts.
        name: The prompt's name there.
    """

    module: Path
    folder: Path
    name: str


def _renderer(file: Path) -> _Renderer:
    """The module whose prompt a file is: the one beside its folder, else the package."""
    folder = next(parent for parent in file.parents if parent.name == "prompts")
    first, *rest = file.relative_to(folder).with_suffix("").parts
    module = folder.parent / f"{first}.py"
    if rest and module.is_file():
        return _Renderer(module, folder / first, "/".join(rest))
    return _Renderer(folder.parent / "__init__.py", folder, "/".join((first, *rest)))
