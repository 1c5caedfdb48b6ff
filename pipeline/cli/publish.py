"""The verb publish: send a release, go back to an earlier one, erase."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.app import (
    STORE,
    AsJson,
    Overrides,
    Profile,
    StoreFolder,
    app,
    print_json,
    verb,
)
from pipeline.errors import Exit, UserError

if TYPE_CHECKING:
    from pipeline.releases.findings import Finding
    from pipeline.releases.outgoing import Outgoing
    from pipeline.releases.publication import Publication
    from pipeline.releases.transports import Erased, Outcome

Published = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE|NAME@VERSION",
        help="A release (NAME alone is its latest); a recipe means its latest release.",
    ),
]


@verb(app)
def publish(
    reference: Published,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="hf://ORG/NAME, s3://BUCKET/PREFIX, file:///FOLDER or git+URL; by default what "
            "the recipe's section `publish` says.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show files, sizes, card and gate; send nothing.")
    ] = False,
    rollback: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Make this earlier version the current one there."),
    ] = None,
    erase: Annotated[
        list[str],
        typer.Option(
            metavar="VERSION", help="Remove this version from there for good; repeatable."
        ),
    ] = [],  # noqa: B006
    takedown: Annotated[
        bool,
        typer.Option("--takedown", help="Erase every version that has rows of the take-down list."),
    ] = False,
    no_latest: Annotated[
        bool, typer.Option("--no-latest", help="Publish the version, and leave `latest` alone.")
    ] = False,
    wait: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=1, help="Wait at most so long for a busy server."),
    ] = 120.0,
    store: StoreFolder = STORE,
    profile: Profile = None,
    overrides: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
) -> int | None:
    """Publish a release: through the gate, in one commit with its tag, read back at the end.

    The same command again finishes what was interrupted, and changes nothing where nothing is
    missing.
    """
    from pipeline.releases import publish as publishing
    from pipeline.releases.outgoing import destination, outgoing
    from pipeline.store.store import Store

    chosen = [rollback is not None, bool(erase), takedown, dry_run]
    if sum(chosen) > 1:
        raise UserError("publish takes one of --dry-run, --rollback, --erase and --takedown")
    if rollback is not None or erase:
        name, address = destination(Store(store), reference, to, overrides, profile)
        if rollback is not None:
            outcome = publishing.rollback(name, rollback, address, wait)
            _show(_rolled_back(outcome, rollback), as_json)
        else:
            _show(_erased(publishing.erase(erase, address, wait), address), as_json)
        return None
    leaving = outgoing(Store(store), reference, to, overrides, profile)
    if dry_run:
        return _dry_run(leaving, as_json)
    if takedown:
        versions = leaving.taken_down_versions()
        _show(_erased(publishing.erase(versions, leaving.to, wait), leaving.to), as_json)
    else:
        _show(_publish(leaving, not no_latest, wait), as_json)
    return None


def _publish(leaving: Outgoing, move_latest: bool, wait: float) -> dict[str, Any]:
    sent = leaving.publish(move_latest=move_latest, wait=wait)
    return {
        "release": leaving.reference,
        "published": "now" if sent.outcome.is_new else "before",
        "address": sent.outcome.address,
        "files": sent.files,
        "bytes": sent.bytes,
        "rows": sent.rows,
        "latest": sent.outcome.latest,
        "warnings": [str(finding) for finding in leaving.findings],
        "notes": list(sent.outcome.notes),
    }


def _rolled_back(outcome: Outcome, version: str) -> dict[str, Any]:
    done = "now" if outcome.is_new else "before"
    return {"current": version, "rolled back": done, "address": outcome.address}


def _erased(erased: Erased, to: str) -> dict[str, Any]:
    return {
        "erased": list(erased.versions),
        "address": to,
        "files": erased.files,
        "bytes": erased.bytes,
        "notes": list(erased.notes),
    }


def _show(result: dict[str, Any], as_json: bool) -> None:
    """What was done, a line a fact; what is empty is left out."""
    from pipeline.cli import tables

    if as_json:
        print_json(result)
        return
    lines = []
    for name, value in result.items():
        values = value if isinstance(value, list) else [value]
        if name == "bytes":
            values = [tables.size(value)]
        texts = [f"{v:,}" if isinstance(v, int) else str(v) for v in values if v is not None]
        for first, *more in map(str.splitlines, filter(None, texts)):
            lines += [[name, first], *(["", line] for line in more)]
    if result.get("erased") == []:
        lines.insert(0, ["erased", "nothing: none of these versions is published there"])
    header, *rest = lines
    print(tables.table(header, rest))


def _dry_run(leaving: Outgoing, as_json: bool) -> int:
    """Show what would be sent; the exit code is that of the gate."""
    with tempfile.TemporaryDirectory(prefix="gristmill-") as folder:
        publication = leaving.prepare(Path(folder))
        card = publication.files["README.md"].read_text("utf-8")
    findings = leaving.findings
    refused = any(finding.level == "refuse" for finding in findings)
    if as_json:
        print_json(_described(leaving, publication, card, findings))
    else:
        _print_dry_run(leaving, publication, card, findings)
    return Exit.REFUSED if refused else Exit.DONE


def _described(
    leaving: Outgoing, publication: Publication, card: str, findings: list[Finding]
) -> dict[str, Any]:
    files = [{"path": path, **entry} for path, entry in publication.entries.items()]
    return {
        "release": leaving.reference,
        "to": leaving.options.to,
        "files": files,
        "gate": [vars(finding) for finding in findings],
        "card": card,
    }


def _print_dry_run(
    leaving: Outgoing, publication: Publication, card: str, findings: list[Finding]
) -> None:
    from pipeline.cli import tables

    rows = [[path, tables.size(entry["bytes"])] for path, entry in publication.entries.items()]
    rows.append([f"{len(rows)} files", tables.size(publication.bytes)])
    print(tables.table([leaving.reference, "size"], rows, right=(1,)))
    print(f"\nto: {leaving.options.to or 'nowhere yet: --to, or `publish: {to: ...}`'}")
    print("\ngate:" + ("" if findings else " passed, nothing to say"))
    for finding in findings:
        print(str(finding))
    print(f"\ncard:\n{card}")
