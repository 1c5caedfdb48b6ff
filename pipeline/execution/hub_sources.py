"""Data sets on the Hugging Face hub that a recipe loads: which commit a revision means.

A branch moves, a commit does not. `refresh` asks the hub and records the commits in the store
(`sources.json`); a stage then loads that commit, and its fingerprint holds it. Nothing else
asks: a run gives what the last refresh saw. Before the first refresh, the revision is loaded
as it is.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Final

from pipeline.errors import Exit, UserError
from pipeline.recipe.recipe import Recipe
from pipeline.store.files import DamagedFile, read_json, write_json
from pipeline.store.store import Store

SECONDS: Final = 20.0
"""How long the hub may take to answer one question."""

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def with_commit(options: SimpleNamespace, store: Store) -> SimpleNamespace:
    """The options of a step; the revision of a data set on the hub is the recorded commit.

    Args:
        options: The step's options; those without `dataset` and `revision` stay as they are.
        store: Where the commits are recorded.
    """
    if not _is_on_hub(options):
        return options
    commit = recorded(store).get(_key(options.dataset, options.revision))
    return SimpleNamespace(**{**vars(options), "revision": commit}) if commit else options


def _is_on_hub(options: SimpleNamespace) -> bool:
    name = getattr(options, "dataset", None)
    return isinstance(name, str) and hasattr(options, "revision") and not Path(name).exists()


def _key(name: str, revision: str | None) -> str:
    return f"{name}@{revision or 'main'}"


def recorded(store: Store) -> dict[str, str]:
    """The commits of `NAME@REVISION` as the last refresh recorded them.

    Raises:
        UserError: The record is damaged: another commit must not be loaded in silence.
    """
    path = store.root / "sources.json"
    try:
        return read_json(path, dict[str, str]) or {}
    except DamagedFile as damage:
        hint = f"rm {shlex.quote(str(path))}, then refresh: the hub is asked again"
        raise damage.as_error(hint) from None


def resolve_sources(recipe: Recipe, store: Store, *, had_release: bool) -> None:
    """Ask the hub for the commits of all data sets that a recipe loads, and record them.

    Args:
        recipe: The recipe.
        store: Where they are recorded.
        had_release: Whether they were there before, so that one that is not has vanished.

    Raises:
        UserError: The hub cannot be reached (exit code 9), or a data set is not there or not
            to be read.
    """
    asked = dict.fromkeys(_revisions(recipe))
    if not asked:
        return
    commits = {_key(*source): _commit(*source, had_release=had_release) for source in asked}
    if commits.items() - recorded(store).items():
        write_json(store.root / "sources.json", {**recorded(store), **commits})


def _revisions(recipe: Recipe) -> Iterator[tuple[str, str | None]]:
    for step in recipe.steps.values():
        options = step.options
        if _is_on_hub(options) and not _COMMIT.fullmatch(options.revision or ""):
            yield options.dataset, options.revision


def _commit(name: str, revision: str | None, *, had_release: bool) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"data set {_key(name, revision)} on the hub"
    try:
        info = HfApi().dataset_info(name, revision=revision, timeout=SECONDS)
    except GatedRepoError as error:
        hint = "ask for access, then hf auth login"
        raise UserError("access must be granted first", where=where, why=_line(error), hint=hint) \
            from None  # fmt: skip
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        code = Exit.SOURCE_LOST if had_release else Exit.MISTAKE
        what = "it is not there any more" if had_release else "it is not there"
        raise UserError(what, where=where, why=_line(error), code=code) from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        later = status is None or status == 429 or status >= 500
        code = Exit.TRY_AGAIN if later else Exit.MISTAKE
        raise UserError("the hub refused to say which commit it is at", where=where,
                        why=_line(error), code=code) from None  # fmt: skip
    except Exception as error:  # the client's errors of transport have no common base
        raise UserError(
            "the hub cannot be reached",
            where=where,
            why=_line(error),
            hint="refresh again later; nothing was changed",
            code=Exit.TRY_AGAIN,
        ) from None
    assert info.sha is not None
    return info.sha


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
