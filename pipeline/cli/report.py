"""The verb `report`: a run or a release as one page for a browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pipeline.cli.app import (
    STORE,
    Overrides,
    Profile,
    RecipeOrRelease,
    StoreFolder,
    app,
    snapshot,
    verb,
)
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.execution.snapshot import Snapshot
    from schemas.release import Release

PAGES: Final = (".html", ".htm")
"""Ends of the files that hold a page."""


@verb(app)
def report(
    recipe: RecipeOrRelease,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The page to write.")
    ] = Path("report.html"),
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="RELEASE",
            help="The release to compare with; by default the one before, where there is one.",
        ),
    ] = None,
    store: StoreFolder = STORE,
    profile: Profile = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Write one HTML file that shows what became of all rows, and opens without a network."""
    from pipeline.cli.tables import size
    from pipeline.releases.plugins import plugin

    check_page(output)
    shown = snapshot(recipe, store, overrides, profile)
    html = plugin("page")(shown, _before(shown, against))
    write_page(output, html)
    print(f"{output} ({size(len(html.encode()))}): open it in a browser")


def write_page(output: Path, html: str) -> None:
    """Write a page.

    Args:
        output: The file.
        html: Its content.

    Raises:
        UserError: It cannot be written.
    """
    try:
        output.write_text(html, "utf-8")
    except OSError as error:
        raise UserError(f"{output} cannot be written", why=error.strerror) from None


def check_page(output: Path) -> None:
    """Refuse what could not be written, before anything is read.

    Args:
        output: The file.

    Raises:
        UserError: The folder is missing, or the path is another thing: a folder, a FIFO.
    """
    from pipeline.store.files import check_kind

    if output.suffix not in PAGES:
        raise UserError(f"the page must end in .html, got {str(output)!r}", hint="-o report.html")
    check_kind(output, "the page", folder=False, hint="name another file: -o report.html")
    if not output.parent.is_dir():
        raise UserError(f"{output} cannot be written", why=f"there is no folder {output.parent}")


def _before(shown: Snapshot, against: str | None) -> Snapshot | None:
    """The release to compare with; None where there is none.

    Raises:
        UserError: There is no such release.
    """
    from pipeline.execution.snapshot import Snapshot
    from pipeline.store.releases import latest, read_release

    release: Release | None
    if against:
        release = read_release(shown.store, against)
    elif shown.release:
        parent = shown.release["parent"]
        reference = f"{shown.release['name']}@{parent}"
        release = read_release(shown.store, reference) if parent else None
    else:
        release = latest(shown.store, shown.title)
    return Snapshot.of_release(shown.store, release) if release else None
