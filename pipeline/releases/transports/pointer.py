"""`latest.json`: which version of a folder or a bucket is the current one.

It moves forward when a new version is published, and back by `--rollback` alone: `newest`
remembers the highest version that it ever named, so publishing an old version again does not
undo a rollback.
"""

from __future__ import annotations

import json
from typing import Final

from typing_extensions import TypedDict

from pipeline.errors import UserError
from pipeline.store.releases import version_key

FILE: Final = "latest.json"


class Pointer(TypedDict):
    """What `latest.json` holds.

    Attributes:
        name: The release's name.
        version: The current version, which is the name of its folder.
        newest: The highest version that was ever current.
    """

    name: str
    version: str
    newest: str


def parse(content: bytes, where: str) -> Pointer:
    """The pointer in the content of `latest.json`.

    Args:
        content: The file's bytes.
        where: The file, for the error.

    Raises:
        UserError: It is no pointer.
    """
    try:
        value = json.loads(content)
        pointer = Pointer(name=str(value["name"]), version=value["version"], newest=value["newest"])
        version_key(pointer["version"]), version_key(pointer["newest"])
    except (ValueError, TypeError, KeyError, UserError):
        hint = "another tool wrote it, or it is damaged: remove it, or choose another address"
        what = "latest.json must name a version of a release"
        raise UserError(what, where=where, hint=hint) from None
    return pointer


def forward(pointer: Pointer | None, name: str, version: str, where: str) -> Pointer | None:
    """The pointer after a version was published; None where it stays.

    Args:
        pointer: The pointer before, None where there is none.
        name: The release's name.
        version: The published version.
        where: The place, for the error.

    Raises:
        UserError: The place has releases of another name.

    Example:
        >>> after_rollback = {"name": "chat", "version": "1.0", "newest": "1.1"}
        >>> forward(after_rollback, "chat", "1.1", "")
        >>> forward(after_rollback, "chat", "1.2", "")["version"]
        '1.2'
    """
    if pointer is None:
        return Pointer(name=name, version=version, newest=version)
    check_name(pointer, name, where)
    if version_key(version) <= version_key(pointer["newest"]):
        return None
    return Pointer(name=name, version=version, newest=version)


def back(pointer: Pointer | None, name: str, version: str, where: str) -> Pointer | None:
    """The pointer after a rollback; None where it stays.

    Args:
        pointer: The pointer before, None where there is none.
        name: The release's name.
        version: The earlier version.
        where: The place, for the error.

    Raises:
        UserError: The place has releases of another name.
    """
    check_name(pointer, name, where)
    if pointer is not None and pointer["version"] == version:
        return None
    newest = max(version, pointer["newest"] if pointer else version, key=version_key)
    return Pointer(name=name, version=version, newest=newest)


def check_name(pointer: Pointer | None, name: str, where: str) -> None:
    """Check that a place has releases of this name.

    Args:
        pointer: Its pointer, None where there is none.
        name: The release's name.
        where: The place, for the error.

    Raises:
        UserError: It has those of another one.
    """
    if pointer is not None and pointer["name"] != name:
        raise UserError(
            f"the place must hold releases of {name!r}, got {pointer['name']!r}",
            where=where,
            hint="choose another address: each release has a place of its own",
        )


def current_version(version: str, where: str) -> UserError:
    """The error of erasing the version that `latest` names.

    Args:
        version: The version.
        where: The place.
    """
    return UserError(
        f"a version that is erased must not be the current one, got {version}, which is",
        where=where,
        hint="publish a release without the rows first (release RECIPE, publish RECIPE)",
    )
