"""Bundles on the command line: what `run FILE.zip` and `release --bundle` share with no verb."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline.cli.app import quiet_libraries
from pipeline.errors import Exit, UserError

if TYPE_CHECKING:
    from pipeline.recipe.recipe import Recipe
    from pipeline.releases.unbundle import OpenedBundle
    from pipeline.store.artifact import Artifact
    from pipeline.store.store import Store
    from schemas.release import Release

SUFFIX: Final = ".zip"


def load(
    path: str, store: Path, overrides: list[str], profile: str | None, trust: bool
) -> tuple[OpenedBundle, Store]:
    """A bundle whose inputs are here, and the store to rebuild it in.

    Args:
        path: The zip file.
        store: The store's folder.
        overrides: The texts after `--set`.
        profile: The name after `--profile`.
        trust: Whether `--trust` stands there.

    Raises:
        UserError: The bundle cannot be rebuilt here.
    """
    quiet_libraries()
    from pipeline.releases.unbundle import open_bundle
    from pipeline.store.store import Store

    if profile:
        raise UserError(
            f"a bundle has the profile that it was made with, got --profile {profile}",
            hint="leave it out, or run the recipe itself",
        )
    opened = Store(store)
    bundle = open_bundle(Path(path), opened, overrides, trust=trust)
    for note in bundle.notes:
        print(f"warning: {note}", file=sys.stderr)
    return bundle, opened


def report(bundle: OpenedBundle, artifacts: Mapping[str, Artifact], code: Exit) -> Exit:
    """Say whether what came out is what the release has; the exit code of the run.

    Args:
        bundle: The bundle.
        artifacts: The artifacts of the stages that ran, by stage.
        code: The exit code without it.
    """
    name = f"{bundle.release['name']}@{bundle.release['version']}"
    compared = [file for file in bundle.release["files"] if file["stage"] in artifacts]
    if differences := bundle.differences(artifacts):
        print(f"error: what came out is not {name}", file=sys.stderr)
        for difference in differences:
            print(f"  {difference}", file=sys.stderr)
        return Exit.MISTAKE
    if compared:
        files = f"{len(compared)} file{'s' * (len(compared) != 1)}"
        print(f"\n{files}, byte for byte those of {name}")
    return code


def write(recipe: Recipe, store: Store, release: Release, path: Path, with_journal: bool) -> None:
    """Write the bundle of a release, and say on standard error what it has.

    Args:
        recipe: The recipe that made the release.
        store: Where its artifacts and the journal are.
        release: The release.
        path: The zip file.
        with_journal: Whether the models' answers go with it.

    Raises:
        UserError: The file cannot be written.
    """
    from pipeline.releases.bundle import write_bundle

    result = write_bundle(recipe, store, release, path, with_journal=with_journal)
    parts = [f"{result.inputs:,} input{'s' * (result.inputs != 1)} by digest"]
    parts += [f"{result.own:,} file{'s' * (result.own != 1)} of own stages"] if result.own else []
    parts += [f"{result.answers:,} answers"] if result.answers is not None else []
    print(f"{path}: {result.bytes:,} bytes, {', '.join(parts)}", file=sys.stderr)
