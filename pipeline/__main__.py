"""The command line: argument parsing only.

Everything heavy is imported by the command that needs it, so that `--help` is instant.
"""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Gristmill: from raw instruction data to a fine-tuning set that you can trust.",
)

RecipeName = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="A path, or the name of a recipe in pipeline/recipes/."),
]
StageName = Annotated[str, typer.Argument(metavar="STAGE", help="A stage's name in the recipe.")]
StoreFolder = Annotated[str, typer.Option("--store", help="Where artifacts are kept.")]
Overrides = Annotated[
    list[str], typer.Option("--set", help="stages.NAME.with.OPTION=VALUE, for this call.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]

STORE = "data/artifacts"


@app.command()
def run(
    recipe: RecipeName,
    stages: Annotated[
        list[str] | None, typer.Argument(metavar="[STAGE]...", help="Run up to these stages only.")
    ] = None,
    store: StoreFolder = STORE,
    overrides: Overrides = [],  # noqa: B006
    workers: Annotated[
        int, typer.Option(help="Processes for row-wise stages; 0: one per core.")
    ] = 0,
    accept_code: Annotated[
        bool, typer.Option("--accept-code", help="Changed code computes the same: go on.")
    ] = False,
) -> None:
    """Run what is missing: all stages, or up to the named ones."""
    from pipeline.cli import commands

    commands.run(recipe, stages or [], store, overrides, workers, accept_code)


@app.command()
def plan(
    recipe: RecipeName,
    stages: Annotated[list[str] | None, typer.Argument(metavar="[STAGE]...")] = None,
    store: StoreFolder = STORE,
    overrides: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """What would run and why; runs nothing."""
    from pipeline.cli import commands

    commands.show_plan(recipe, stages or [], store, overrides, as_json)


@app.command()
def status(
    recipe: RecipeName,
    store: StoreFolder = STORE,
    overrides: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """What is there: state and row counts of every stage."""
    from pipeline.cli import commands

    commands.show_status(recipe, store, overrides, as_json)


@app.command()
def why(
    recipe: RecipeName,
    stage: StageName,
    store: StoreFolder = STORE,
    overrides: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Which part of a stage's fingerprint changed since its last artifact."""
    from pipeline.cli import commands

    commands.show_why(recipe, stage, store, overrides, as_json)


@app.command()
def explain(
    recipe: RecipeName,
    record: Annotated[str, typer.Argument(metavar="ID", help="A record's id, or its beginning.")],
    store: StoreFolder = STORE,
    overrides: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """A record's way through the graph: origins, columns and verdict at each stage."""
    from pipeline.cli import commands

    commands.show_way(recipe, record, store, overrides, as_json)


@app.command()
def cat(
    recipe: RecipeName,
    stage: StageName,
    store: StoreFolder = STORE,
    overrides: Overrides = [],  # noqa: B006
    dropped: Annotated[bool, typer.Option("--dropped", help="The rows that it dropped.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="The rows that failed in it.")] = False,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="FILE.parquet or FILE.jsonl.")
    ] = None,
) -> None:
    """The rows of a stage with all columns visible there."""
    from pipeline.cli import commands

    commands.show_rows(recipe, stage, store, overrides, dropped, failed, output)


@app.command()
def stages(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One stage, whole.")] = None,
    as_json: AsJson = False,
) -> None:
    """Every stage with its options, types, defaults and source."""
    from pipeline.cli import commands

    commands.show_stages(name, as_json)


@app.command()
def doctor(store: StoreFolder = STORE) -> None:
    """Whether this machine has what is needed, and what to do where it has not."""
    from pipeline.cli import commands

    commands.doctor(store)


journals = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The answers of language models: count, check, hand to others, take from others.",
)
app.add_typer(journals, name="journal")

ExportFile = Annotated[str, typer.Argument(metavar="FILE", help="FILE.jsonl or FILE.jsonl.gz.")]


@journals.command()
def stats(store: StoreFolder = STORE, as_json: AsJson = False) -> None:
    """Requests and tokens by model, what was cut, what was answered more than once."""
    from pipeline.cli import commands

    commands.journal("stats", None, store, as_json)


@journals.command()
def verify(store: StoreFolder = STORE) -> None:
    """Whether every entry is whole and its key that of its request."""
    from pipeline.cli import commands

    commands.journal("verify", None, store, False)


@journals.command()
def export(file: ExportFile, store: StoreFolder = STORE) -> None:
    """Write all answers to a file; with it `engine: replay` rebuilds the data set."""
    from pipeline.cli import commands

    commands.journal("export", file, store, False)


@journals.command("import")
def import_(file: ExportFile, store: StoreFolder = STORE) -> None:
    """Take in the answers of such a file; where there is one already, it stays."""
    from pipeline.cli import commands

    commands.journal("import", file, store, False)


if __name__ == "__main__":
    app(prog_name="python -m pipeline")
