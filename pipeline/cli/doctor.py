"""What this machine has, what a run needs, and what to do about the difference."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from pipeline.recipe.recipe import RECIPES, Recipe
from pipeline.stage import ROOT

NEEDED: Final = (
    "datasets", "peft", "polars", "pyarrow", "scikit-learn",
    "sentence-transformers", "torch", "transformers", "trl",
)  # fmt: skip
FREE_GB: Final = 2.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `mend` says what to do when it is not fine."""

    fine: bool
    what: str
    mend: str | None = None


def examine(store: Path) -> list[Finding]:
    """Look at Python, the libraries, the processor, the store and the shipped recipes."""
    return [_python(), *_libraries(), _processor(), _store(store), *_recipes()]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    fine = sys.version_info >= (3, 11)
    return Finding(fine, f"Python {version}", None if fine else "install Python 3.11 or newer")


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
    existing = next(p for p in (store.resolve(), *store.resolve().parents) if p.exists())
    free = shutil.disk_usage(existing).free / 1e9
    if not os.access(existing, os.W_OK):
        return Finding(
            False, f"the store {store} cannot be written to", "choose another: --store DIR"
        )
    fine = free >= FREE_GB
    mend = None if fine else "free some space, or choose another place: --store DIR"
    return Finding(fine, f"store {store}, {free:.0f} GB free", mend)


def _recipes() -> list[Finding]:
    findings = []
    for path in sorted(RECIPES.glob("*.yaml")):
        name = path.relative_to(ROOT)
        try:
            steps = len(Recipe.load(str(path)).steps)
            findings.append(Finding(True, f"{name}: {steps} stages, wired"))
        except Exception as error:
            findings.append(Finding(False, f"{name}: {error}"))
    return findings
