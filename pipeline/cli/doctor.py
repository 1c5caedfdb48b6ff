"""What this machine has, what a run needs, and what to do about the difference."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from pipeline import ROOT
from pipeline.errors import UserError
from pipeline.hints import display
from pipeline.recipe.recipe import RECIPES, Recipe
from pipeline.releases.verify import verify_store
from pipeline.store.store import Store

NEEDED: Final = (
    "datasets", "peft", "polars", "pyarrow", "scikit-learn",
    "sentence-transformers", "torch", "transformers", "trl",
)  # fmt: skip
FREE_GB: Final = 2.0


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        passed: Whether all is well.
        what: What was checked, and its state.
        fix: What to do where it is not.
    """

    passed: bool
    what: str
    fix: str | None = None


def examine(store: Path, deep: bool = False) -> Iterator[Finding]:
    """Check Python, the libraries, the processor, the store and the shipped recipes.

    Args:
        store: The store's folder.
        deep: Whether to read the whole store, every byte against its digest.
    """
    at_store = _store(store)
    yield from (_python(), *_libraries(), _processor(), at_store, *_recipes())
    if deep and at_store.passed:
        yield from _contents(store)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    passed = sys.version_info >= (3, 11)
    return Finding(passed, f"Python {version}", None if passed else "install Python 3.11 or newer")


def _libraries() -> list[Finding]:
    findings = []
    for name in NEEDED:
        try:
            findings.append(Finding(True, f"{name} {metadata.version(name)}"))
        except metadata.PackageNotFoundError:
            findings.append(Finding(False, f"{name} is not installed", "make setup"))
    return findings


def _processor() -> Finding:
    try:
        import torch
    except ImportError:
        return Finding(False, "no torch, so no device can be looked for", "make setup")
    cores = os.cpu_count() or 1
    if torch.cuda.is_available():
        return Finding(True, f"{cores} cores, GPU {torch.cuda.get_device_name()}")
    return Finding(True, f"{cores} cores, no GPU: language models run on the processor")


def _store(store: Path) -> Finding:
    try:
        Store(store)
    except UserError as error:
        return Finding(False, f"{error.where}: {error.what}", error.hint)
    existing = next(p for p in (store.resolve(), *store.resolve().parents) if p.exists())
    free = shutil.disk_usage(existing).free / 1e9
    name = display(store)
    if not os.access(existing, os.W_OK):
        return Finding(
            False, f"the store {name} cannot be written to", "choose another: --store DIR"
        )
    passed = free >= FREE_GB
    fix = None if passed else "free some space, or choose another folder: --store DIR"
    return Finding(passed, f"store {name}, {free:.0f} GB free", fix)


def _contents(store: Path) -> Iterator[Finding]:
    """What is in the store, part by part, and each damaged file."""
    for part in verify_store(Store(store)):
        for damage in part.damages:
            why = f" ({damage.why})" if damage.why else ""
            yield Finding(False, f"{damage.where}: {damage.what}{why}", damage.hint)
        if not part.damages:
            yield Finding(True, f"{part.summary}: every byte is as it was written")


def _recipes() -> list[Finding]:
    findings = []
    for path in sorted(RECIPES.glob("*.yaml")):
        name = path.relative_to(ROOT)
        try:
            recipe = Recipe.load(str(path))
            sizes = [f"{name}: {len(recipe.steps)} stages"]
            for profile in recipe.profiles:
                steps = Recipe.load(str(path), profile=profile).steps
                sizes.append(f"{len(steps)} with --profile {profile}")
            findings.append(Finding(True, f"{', '.join(sizes)}, no mistakes"))
        except Exception as error:
            findings.append(Finding(False, f"{name}: {error}"))
    return findings
