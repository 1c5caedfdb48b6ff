"""What all verbs share: the application, parameters, errors and exit codes.

A verb is one function, in the module of its theme. Everything heavy is imported inside
it, so that `--help` is instant. Answers go to standard output, progress and errors to
the other. Exit codes are those of `errors.Exit`: a `UserError` ends a verb with its text
alone; whatever else is raised is a bug and keeps its traceback.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer
from typer.core import TyperGroup

from pipeline import DEFAULT_STORE, ROOT
from pipeline.errors import Exit, UserError

if TYPE_CHECKING:
    from pipeline.execution.snapshot import Snapshot
    from pipeline.recipe.recipe import Recipe
    from pipeline.store.store import Store

Parameters = ParamSpec("Parameters")


class Group(TyperGroup):
    """Verbs, each with its whole first sentence in the list, however narrow the terminal is."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of verbs; typer's own cuts what does not fit on a line."""
        names = [name for name in self.list_commands(ctx) if not self.commands[name].hidden]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(n, self.commands[n].get_short_help_str(sys.maxsize)) for n in names]
            )


app = typer.Typer(
    cls=Group,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeName = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="A path, or the name of a recipe in pipeline/recipes/."),
]
RecipeOrRelease = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A path, the name of a recipe in pipeline/recipes/, or a release: NAME@VERSION "
        "(NAME alone is its latest, where no recipe has that name).",
    ),
]
StageName = Annotated[str, typer.Argument(metavar="STAGE", help="A stage's name in the recipe.")]
Profile = Annotated[
    str | None,
    typer.Option("--profile", metavar="NAME", help="Apply this profile of the recipe."),
]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change the recipe for this call, e.g. stages.chosen.with.budget=500; repeatable.",
    ),
]


def _folder(value: str | Path) -> Path:
    """The path of a folder; an empty text, such as that of a variable unset, names none."""
    if not str(value):
        raise typer.BadParameter("DIR must be a folder, got ''")
    return Path(value)


StoreFolder = Annotated[
    Path,
    typer.Option(
        "--store",
        metavar="DIR",
        parser=_folder,
        help="Where artifacts are kept; by default data/artifacts of the repository.",
        show_default=False,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        min=1,
        help="A preview: language models are asked about the first N rows alone.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
STORE = DEFAULT_STORE


def verb(
    group: typer.Typer, name: str | None = None
) -> Callable[[Callable[Parameters, int | None]], Callable[Parameters, None]]:
    """Make a function a verb: its errors become what people see, its result the exit code.

    Args:
        group: The application, or the group of verbs that it belongs to.
        name: The verb, where it is not the function's name.
    """

    def declare(function: Callable[Parameters, int | None]) -> Callable[Parameters, None]:
        @functools.wraps(function)
        def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
            try:
                code = function(*args, **kwargs)
                sys.stdout.flush()
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)
                code = error.code
            except BrokenPipeError:
                # The reader of our output (a pager, head) has gone; that is no error.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                code = Exit.DONE
            except OSError as error:
                code = _disk_error(error, Path(str(kwargs.get("store", STORE))))
            except KeyboardInterrupt:
                print("\ninterrupted", file=sys.stderr)
                code = Exit.INTERRUPTED
            sys.exit(int(code or Exit.DONE))

        group.command(name)(wrapped)
        return wrapped

    return declare


def _disk_error(error: OSError, store: Path) -> Exit:
    """Print what the user can do about a full disk and the like; others are bugs of ours."""
    from pipeline.store.disk_errors import explained

    problem = explained(error, store)
    if problem is None:
        raise error
    print(f"error: {problem}", file=sys.stderr)
    return problem.code


def load(
    recipe: str,
    store: Path,
    overrides: list[str],
    profile: str | None,
    limit: int | None = None,
) -> tuple[Recipe, Store]:
    """The recipe and the store of a verb.

    Args:
        recipe: A path or a name.
        store: The store's folder.
        overrides: The texts after `--set`.
        profile: The name after `--profile`.
        limit: The number after `--limit`.
    """
    quiet_libraries()
    from pipeline.recipe.preview import preview
    from pipeline.recipe.recipe import Recipe
    from pipeline.store.store import Store

    loaded = Recipe.load(recipe, overrides, profile)
    return loaded if limit is None else preview(loaded, limit), Store(store)


def snapshot(
    reference: str,
    store: Path,
    overrides: list[str],
    profile: str | None,
    limit: int | None = None,
) -> Snapshot:
    """The stages of a recipe or a release with their artifacts.

    Args:
        reference: A recipe's path or name, or a release: `NAME@VERSION`, `NAME`.
        store: The store's folder.
        overrides: The texts after `--set`.
        profile: The name after `--profile`.
        limit: The number after `--limit`.
    """
    quiet_libraries()
    from pipeline.execution.snapshot import open_snapshot
    from pipeline.store.store import Store

    return open_snapshot(Store(store), reference, overrides, profile, limit)


def quiet_libraries() -> None:
    """Progress is ours to show; the libraries' own bars would break into it."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    import json

    print(json.dumps(value, indent=1, ensure_ascii=False))


def _print_version(requested: bool) -> None:
    if requested:
        import tomllib

        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        print(f"{project['name']} {project['version']}")
        raise typer.Exit


@app.callback()
def gristmill(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Gristmill: from raw instruction data to a fine-tuning set that you can trust."""
