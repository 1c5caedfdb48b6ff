"""The options that loaders of rows share: where the rows come from, and how files hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, get_args

from pipeline.context import Context
from pipeline.errors import OptionError
from stages.load._files.container import Container, container
from stages.load._files.hub import hub_rows
from stages.load._files.json_lines import Position
from stages.load._rows.accepted import read_accepted
from stages.load._rows.output import ContainerOf, check_file, existing_files, read_files

DEFAULT_SPLIT: Final = "train"


def check_rows(
    options: SimpleNamespace,
    is_usable: Callable[[Any], bool],
    what: str,
    hint: str,
    nested: frozenset[str],
) -> None:
    """Whether each file can be read and its first megabyte holds a usable row.

    Args:
        options: `path` or `dataset`, `split`, `revision`, `format`, `delimiter`, `accepted`.
        is_usable: Whether a row, an object or a list, has the fields that are needed.
        what: What a usable row is, for the message.
        hint: What to do where there is none.
        nested: The columns of a table whose cells may be JSON.

    Raises:
        OptionError: The options contradict each other.
        UserError: A file cannot be read, or holds no such row.
    """
    if bool(options.path) == bool(options.dataset):
        raise OptionError(
            "path",
            "and dataset: exactly one must be given, got "
            + ("both" if options.path else "neither"),
            hint="write path: FILE (or a list, or a pattern), or dataset: OWNER/NAME",
        )
    for option, default in (("split", DEFAULT_SPLIT), ("revision", None)):
        value = getattr(options, option)
        if options.dataset is None and value != default:
            raise OptionError(
                option, f"must be left out without `dataset`, got {value!r}",
                hint=f"it has no effect on files: leave {option} out",
            )  # fmt: skip
    held = _container_of(options.format)
    for path in existing_files(options.path):
        check_file(path, held, is_usable, what, hint, nested, options.delimiter)
    read_accepted(options.accepted)


def input_files(options: SimpleNamespace) -> list[Path]:
    """The files of a data set that is a local folder: they count by content, as `path` does.

    Args:
        options: `dataset`.
    """
    folder = Path(options.dataset or "")
    if not options.dataset or not folder.is_dir():
        return []
    return sorted(path for path in folder.rglob("*") if path.is_file())


def source_positions(
    ctx: Context, options: SimpleNamespace, nested: frozenset[str]
) -> Iterable[tuple[str, Position]]:
    """The positions of the files or of the data set, each with the name of where it stands.

    Args:
        ctx: Reports the progress.
        options: `path` or `dataset`, `split`, `revision`, `format` and `delimiter`.
        nested: The columns of a table whose cells may be JSON.

    Raises:
        UserError: A file or the data set cannot be read at all.
    """
    if options.dataset:
        return hub_rows(options.dataset, options.split, options.revision, nested)
    files, held = existing_files(options.path), _container_of(options.format)
    return read_files(ctx, files, held, nested, options.delimiter)


def _container_of(format: str) -> ContainerOf:
    """How files hold their rows: as the format says, or as each file shows."""
    named = next((name for name in get_args(Container) if name == format), None)
    return (lambda *_: named) if named else container
