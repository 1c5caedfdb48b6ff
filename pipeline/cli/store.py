"""The verbs on a store as a whole: push, pull."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.app import (
    STORE,
    Group,
    Overrides,
    Profile,
    RecipeOrRelease,
    StoreFolder,
    app,
    load,
    quiet_libraries,
    verb,
)

if TYPE_CHECKING:
    from pipeline.releases.transfer import Transfer

group = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Move the artifacts of a recipe or of a release between stores.",
)
app.add_typer(group, name="store")

Address = Annotated[
    str, typer.Argument(metavar="ADDRESS", help="s3://BUCKET/PREFIX or file:///FOLDER.")
]


@verb(group)
def push(
    recipe: RecipeOrRelease,
    address: Address,
    profile: Profile = None,
    overrides: Overrides = [],  # noqa: B006
    store: StoreFolder = STORE,
) -> None:
    """Send what the store has of a recipe, or a release, verified before."""
    quiet_libraries()
    from pipeline.releases.transfer import push_recipe, push_release
    from pipeline.remote.buckets import bucket_at
    from pipeline.store.releases import is_reference, read_release
    from pipeline.store.store import Store

    opened, bucket = Store(store), bucket_at(address)
    if is_reference(recipe):
        done = push_release(read_release(opened, recipe), opened, bucket)
    else:
        done = push_recipe(*load(recipe, store, overrides, profile), bucket)
    _print("sent", done, address)


@verb(group)
def pull(
    recipe: RecipeOrRelease,
    address: Address,
    profile: Profile = None,
    overrides: Overrides = [],  # noqa: B006
    store: StoreFolder = STORE,
) -> None:
    """Fetch what a recipe would compute, or a release, verified before anybody reads it."""
    quiet_libraries()
    from pipeline.releases.transfer import pull_recipe, pull_release
    from pipeline.remote.buckets import bucket_at
    from pipeline.store.releases import is_reference, parse_reference
    from pipeline.store.store import Store

    opened, bucket = Store(store), bucket_at(address)
    if is_reference(recipe):
        done = pull_release(*parse_reference(recipe), opened, bucket)
    else:
        done = pull_recipe(*load(recipe, store, overrides, profile), bucket)
    _print("fetched", done, address)


def _print(verb: str, done: Transfer, address: str) -> None:
    from pipeline.wording import byte_size, counted

    name = f"{done.release}: " if done.release else ""
    size = f" ({byte_size(done.bytes)})" if done.moved else ""
    print(f"{name}{counted(done.moved, 'artifact')} {verb}{size}, {done.present:,} already there")
    if done.missing:
        where = "not in this store" if verb == "sent" else f"not at {address}"
        print(f"{counted(len(done.missing), 'stage')} {where}: {', '.join(done.missing)}")
