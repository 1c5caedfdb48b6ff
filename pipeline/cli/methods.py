"""The verb `methods`: the literature that the recipes cover, and how to run each method."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pipeline.cli.app import AsJson, app, print_json, verb
from pipeline.errors import UserError, program

if TYPE_CHECKING:
    from pipeline.recipe.methods import Method

_INDENT: Final = "  "


@verb(app)
def methods(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A method, its recipe, or its arXiv number."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the methods of the literature, or show one: what is as in its paper, how to run it."""
    from pipeline.cli.tables import table
    from pipeline.recipe.methods import methods as catalogue

    known = catalogue()
    shown = known if name is None else _named(name, known)
    if as_json:
        print_json([method.entry() for method in shown])
    elif name is None:
        rows = [
            (m.name, m.recipe, ", ".join(m.stages), str(m.paper.year), m.paper.arxiv) for m in known
        ]
        print(table(("method", "recipe", "stages", "year", "arXiv"), rows, optional=(2, 3)))
        print(f"\n{program()} methods NAME shows what is as in the paper, and how to run it")
    else:
        print("\n\n".join(map(_page, shown)))


def _named(name: str, known: Sequence[Method]) -> list[Method]:
    """The methods of a name, of a recipe or of an arXiv number, in any case.

    Raises:
        UserError: There is none.
    """
    from pipeline.hints import closest

    key = _plain(name.removeprefix("arXiv:"))
    result = [
        m for m in known if key in {_plain(m.name), _plain(m.recipe), _plain(m.paper.arxiv)}
    ] or [m for m in known if key in {_plain(m.name.split(" (")[0])}]
    if not result:
        hint = closest(name, [*(m.recipe for m in known), *(m.name for m in known)])
        raise UserError(
            f"NAME must be a method, got {name!r}", hint=hint or f"{program()} methods lists them"
        )
    return result


def _plain(name: str) -> str:
    """A name without case, dashes and spaces."""
    return re.sub(r"[^\w.]|_", "", name).casefold()


def _page(method: Method) -> str:
    """All that there is to say of a method."""
    return "\n".join(_lines(method))


def _lines(method: Method) -> Iterator[str]:
    paper = method.paper
    yield method.name
    yield from _text(f"{paper.title} ({paper.authors} {paper.year})")
    yield f"{_INDENT}https://arxiv.org/abs/{paper.arxiv}"
    for title, text in (
        ("what it does", method.summary),
        ("as in the paper", method.as_in_paper),
        ("as in the authors' code", method.as_in_code),
        ("ours", method.differs),
        ("left out", method.left_out),
        ("needs", ", ".join(method.needs) or "nothing but a CPU"),
    ):
        if text:
            yield f"\n{title}"
            yield from _text(text)
    yield f"\nin the recipe {method.recipe}"
    yield from _steps(method)
    yield "\nhow to run it"
    yield from _commands(method)


def _text(text: str) -> list[str]:
    from pipeline.cli.tables import width

    return textwrap.wrap(
        text,
        width(),
        initial_indent=_INDENT,
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _steps(method: Method) -> Iterator[str]:
    """The recipe's stages that are the method, with their options."""
    from pipeline.recipe.type_text import yaml_text

    for name, step in method.options.items():
        options = f", with: {yaml_text(step['with'])}" if step.get("with") else ""
        yield f"{_INDENT}{name}: {{uses: {step['uses']}{options}}}"


def _commands(method: Method) -> Iterator[str]:
    """What to type, the smallest first."""
    run = f"{program()} run {method.recipe}"
    commands = {f"{program()} plan {method.recipe}": "what would run, with requests and tokens"}
    if "tiny" in method.profiles:
        commands[f"{run} --profile tiny"] = "offline and small, to see how it works"
    commands[run] = "in full"
    commands[f"{program()} stages {method.stages[0]}"] = "all options"
    wide = max(map(len, commands))
    for command, purpose in commands.items():
        yield f"{_INDENT}{command:<{wide}}  {purpose}"
