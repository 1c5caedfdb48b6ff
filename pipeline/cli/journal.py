"""The verbs on a store's journal: stats, verify, export, import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.app import STORE, AsJson, Group, StoreFolder, app, print_json, verb
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.models.journal.journal import Journal

group = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Count, check, export and import the models' answers.",
)
app.add_typer(group, name="journal")

ExportFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="FILE.jsonl or FILE.jsonl.gz.", show_default=False)
]


def _journal(store: Path) -> Journal:
    from pipeline.models.journal.journal import journal_in
    from pipeline.store.store import Store

    journal = journal_in(Store(store).root)
    if journal is None:
        what = "the store has no journal: no request to a language model was sent"
        raise UserError(what, where=str(store))
    return journal


@verb(group)
def stats(store: StoreFolder = STORE, as_json: AsJson = False) -> None:
    """Count requests and tokens by model, and what they cost by recipe and stage."""
    from pipeline.cli import tables
    from pipeline.models.journal import export as exports
    from pipeline.models.journal.costs import costs
    from pipeline.wording import counted

    journal = _journal(store)
    counts, paid = exports.stats(journal), costs(journal)
    if as_json:
        print_json({**counts, "costs": paid})
        return
    header = ["model", "requests", "prompt tokens", "answer tokens", "cut", "answered again"]
    print(tables.table(header, list(exports.stats_rows(counts)), right=(1, 2, 3, 4, 5)))
    print(f"\n{counted(counts['requests'], 'request')}, {counts['bytes'] / 2**20:,.1f} MiB")
    for recipe in dict.fromkeys(entry["recipe"] for entry in paid):
        entries = [entry for entry in paid if entry["recipe"] == recipe]
        name = recipe or "stages that were called as functions"
        print(f"\npaid by {name}:\n{tables.cost_table(entries)}")


@verb(group)
def verify(store: StoreFolder = STORE) -> None:
    """Check that every entry is complete and has the right key."""
    from pipeline.models.journal import export as exports

    print(f"{exports.verify(_journal(store)):,} entries, all of them complete")


@verb(group)
def export(file: ExportFile, store: StoreFolder = STORE) -> None:
    """Write all answers to a file for `engine: replay`."""
    from pipeline.models.journal import export as exports

    print(f"{exports.export(_journal(store), file):,} entries written to {file}")


@verb(group, "import")
def import_(file: ExportFile, store: StoreFolder = STORE) -> None:
    """Add the answers of an exported file; existing ones stay."""
    from pipeline.models.journal import export as exports
    from pipeline.models.journal.journal import Journal
    from pipeline.store.store import Store

    new, existing = exports.import_entries(Journal(Store(store).root / "journal"), file)
    print(f"{new:,} entries added, {existing:,} existed before")


@verb(group)
def batches(
    store: StoreFolder = STORE,
    forget: Annotated[
        str | None,
        typer.Option(
            "--forget",
            metavar="BATCH",
            help="Give a batch up: its requests are sent again, and may be paid for twice.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the batches of providers that are under way."""
    from dataclasses import asdict

    journal = _journal(store)
    under_way = journal.batches.open()
    if forget is not None:
        chosen = [batch for batch in under_way if forget in (batch.id, batch.tag)]
        if not chosen:
            names = ", ".join(batch.id or batch.tag for batch in under_way) or "none"
            raise UserError(f"BATCH must be one that is under way ({names}), got {forget!r}")
        for batch in chosen:
            journal.batches.end(batch.tag, is_billed=True)
            print(f"batch {batch.name} is given up; {batch.progress()}")
    elif as_json:
        entries = [
            {**asdict(b), "account": b.account._asdict(), "begun": b.begun.isoformat()}
            for b in under_way
        ]
        print_json({"batches": entries})
    else:
        for batch in under_way:
            print(f"{batch.account.stage or '-'}: batch {batch.name}: {batch.progress()}")
        print(f"{len(under_way):,} under way")
