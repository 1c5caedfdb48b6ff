"""The verbs of releases in a store: release, releases, gc."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.app import (
    STORE,
    AsJson,
    Overrides,
    Profile,
    RecipeName,
    StoreFolder,
    app,
    load,
    print_json,
    verb,
)
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.releases.create import Created
    from schemas.release import Release


@verb(app)
def release(
    recipe: RecipeName,
    name: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="NAME@VERSION",
            help="Its name, or name and version; by default the recipe's, and the next one.",
        ),
    ] = None,
    store: StoreFolder = STORE,
    profile: Profile = None,
    overrides: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="FILE.zip", help="Also write all that rebuilds it, but for its data."),
    ] = None,
    journal: Annotated[
        bool, typer.Option("--journal", help="Put the models' answers into the bundle.")
    ] = False,
) -> None:
    """Release what the stages have now as NAME@VERSION; what nothing changed in is no new one."""
    from pipeline.cli import bundles
    from pipeline.releases.bundle import check_writable
    from pipeline.releases.create import create, parse_new

    if journal and not bundle:
        raise UserError("--journal needs --bundle FILE.zip: it is what the answers go into")
    if bundle:  # a mistake in its name must leave no release behind
        check_writable(bundle)
    loaded, opened = load(recipe, store, overrides, profile)
    new_name, version = (None, None) if name is None else parse_new(name)
    created = create(loaded, opened, new_name, version)
    if as_json:
        print_json({"new": created.is_new, "why": created.why, "release": created.release})
    else:
        print(_summary(created))
    if bundle:
        bundles.write(loaded, opened, created.release, bundle, journal)


def _summary(created: Created) -> str:
    """What a person wants to know of a release that was made, or was not."""
    from pipeline.cli import tables

    release, counts = created.release, created.release["counts"]
    reference = f"{release['name']}@{release['version']}"
    if not created.is_new:
        return f"{created.why[0]}: no new release"
    after = f" after {release['parent']}" if release["parent"] else ""
    dropped = sum(counts["dropped"].values())
    numbers = [
        (counts["in"], "read"), (counts["created"], "created"), (counts["kept"], "published"),
        (dropped, "dropped"), (counts["failed"], "failed"),
    ]  # fmt: skip
    licenses = [f"{name} {number:,}" for name, number in release["licenses"].items()]
    size = sum(file["bytes"] for file in release["files"])
    entries = [
        ["why", ", ".join(created.why)],
        ["rows", ", ".join(f"{number:,} {what}" for number, what in numbers if number)],
        ["licenses", ", ".join(licenses) or "none stated"],
        ["files", f"{len(release['files'])}, {tables.size(size)}"],
    ]
    return tables.table([reference, f"released{after}"], entries)


@verb(app)
def releases(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Only the versions of this name.")
    ] = None,
    store: StoreFolder = STORE,
    as_json: AsJson = False,
) -> None:
    """List the releases of the store, each name's oldest first; damaged ones are marked."""
    from pipeline.cli import tables
    from pipeline.store import releases as stored
    from pipeline.store.store import Store

    opened = Store(store)
    references = stored.references(opened, name)
    if name is not None and not references:
        stored.read_release(opened, name)  # says which names there are
    entries, damages = [], []
    for reference in references:
        try:
            entries.append(_entry(stored.read_release(opened, str(reference))))
        except UserError as error:  # one that is damaged hides no other
            entries.append({"release": str(reference), "damaged": str(error)})
            damages.append(error)
    if as_json:
        print_json(entries)
    elif entries:
        header = ["release", "created", "recipe", "rows", "size"]
        print(tables.table(header, [_cells(entry) for entry in entries], right=(3, 4)))
    else:
        print("no releases yet: release RECIPE makes one")
    for damage in damages:
        print(f"damaged: {damage}", file=sys.stderr)


def _entry(release: Release) -> dict[str, Any]:
    return {
        "release": f"{release['name']}@{release['version']}",
        "created": release["created"],
        "recipe": release["recipe"]["name"],
        "rows": release["counts"]["kept"],
        "bytes": sum(file["bytes"] for file in release["files"]),
    }


def _cells(entry: dict[str, Any]) -> list[str]:
    from pipeline.cli import tables

    if "damaged" in entry:
        return [entry["release"], "damaged", "", "", ""]
    numbers = [f"{entry['rows']:,}", tables.size(entry["bytes"])]
    return [entry["release"], entry["created"][:10], entry["recipe"], *numbers]


@verb(app)
def gc(
    store: StoreFolder = STORE,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove it; without, only say what would be removed.")
    ] = False,
    keep_days: Annotated[
        int,
        typer.Option(
            metavar="DAYS", min=0, help="Keep what is younger, whether anything needs it or not."
        ),
    ] = 30,
    as_json: AsJson = False,
) -> None:
    """Remove what no release and no recent run needs: artifacts, work folders, cached rows.

    Answers of language models are never removed.
    """
    from pipeline.cli import tables
    from pipeline.releases.collect import collect
    from pipeline.store.store import Store

    kinds = collect(Store(store), keep_days, delete=delete)
    if as_json:
        print_json({"deleted": delete, "keep_days": keep_days, "kinds": kinds})
        return
    did = "removed" if delete else "to remove"
    amounts = [
        (kind, e["removed"], e["removed_bytes"], e["kept"], e["kept_bytes"])
        for kind, e in kinds.items()
    ]
    rows = [
        [kind, f"{removed:,}", tables.size(removed_bytes), f"{kept:,}", tables.size(kept_bytes)]
        for kind, removed, removed_bytes, kept, kept_bytes in amounts
    ]
    print(tables.table(["kind", did, "size", "kept", "size"], rows, right=(1, 2, 3, 4)))
    total = sum(entry["removed_bytes"] for entry in kinds.values())
    if not delete and total:
        print(f"\n{tables.size(total)} would be freed; --delete does it")
    elif not total:
        print("\nnothing to remove")
