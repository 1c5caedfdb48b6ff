"""The verb `verify`: every byte of a release against its digest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.app import STORE, AsJson, StoreFolder, app, print_json, verb
from pipeline.errors import Exit, UserError

if TYPE_CHECKING:
    from pipeline.store.store import Store


@verb(app)
def verify(
    release: Annotated[
        str,
        typer.Argument(
            metavar="NAME@VERSION",
            help="A release (NAME alone is its latest); a recipe means its latest release.",
        ),
    ],
    store: StoreFolder = STORE,
    as_json: AsJson = False,
) -> int:
    """Check every byte of a release against its digest."""
    from pipeline.releases.verify import verify_release
    from pipeline.store.releases import read_release
    from pipeline.store.store import Store

    opened = Store(store)
    chosen = read_release(opened, _reference(release, opened))
    shown = f"{chosen['name']}@{chosen['version']}"
    result = verify_release(opened, shown)
    damages, count = result.damages, len(result.damages)
    if as_json:
        listed = [{"file": d.where, "what": d.what, "why": d.why, "hint": d.hint} for d in damages]
        numbers = {"artifacts": result.items, "files": result.files, "bytes": result.bytes}
        print_json({"release": shown, "sound": not count, **numbers, "damages": listed})
    else:
        for damage in damages:
            print(f"DAMAGED {damage}")
        verdict = f"{count:,} damaged" if count else "every byte is as it was written"
        print(f"{shown}: {result.summary}: {verdict}")
    return Exit.MISTAKE if count else Exit.DONE


def _reference(word: str, store: Store) -> str:
    """The release that a word means: of a recipe its latest."""
    from pipeline.recipe.recipe import Recipe, locate
    from pipeline.store.releases import is_reference, names

    if is_reference(word) or word.partition("@")[0] in names(store):
        return word
    try:
        locate(word)
    except UserError:
        return word  # it is no release either, which is then said with near names
    return Recipe.load(word).name
