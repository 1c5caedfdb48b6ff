"""The verb `verify`: every byte of a release against its digest."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.app import STORE, StoreFolder, app, verb
from pipeline.errors import Exit


@verb(app)
def verify(
    release: Annotated[
        str, typer.Argument(metavar="NAME@VERSION", help="A release; NAME alone is its latest.")
    ],
    store: StoreFolder = STORE,
) -> int:
    """Check every byte of a release against its digest."""
    from pipeline.releases.verify import verify_release
    from pipeline.store.store import Store

    result = verify_release(Store(store), release)
    for damage in result.damages:
        print(f"DAMAGED {damage}")
    count = len(result.damages)
    verdict = f"{count:,} damaged" if count else "every byte is as it was written"
    print(f"{release}: {result.summary}: {verdict}")
    return Exit.MISTAKE if count else Exit.DONE
