"""What many tests share: small real models, real rows, a scratch context."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from pipeline.context import Context
from pipeline.models import Embedder, LanguageModel

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"

LONGEST = {"test_servers.py", "test_sft.py", "test_preference.py"}

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# No example fails for the time that it takes: that follows the machine's load.
settings.register_profile("fast", deadline=None, max_examples=15)
settings.register_profile("proof", deadline=None, max_examples=60)
settings.load_profile("fast")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: at the end, others would wait for them."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


MANY_MODULES = 200
num_modules = 0
"""How many there were when they were frozen."""


def pytest_collection_finish() -> None:
    freeze_modules()


def pytest_runtest_logfinish() -> None:
    """What a test has imported, torch first of all, stays as well."""
    if len(sys.modules) > num_modules + MANY_MODULES:
        freeze_modules()


def freeze_modules() -> None:
    """Collections of garbage pass over the modules, millions of objects that stay."""
    global num_modules
    gc.collect()
    gc.freeze()
    num_modules = len(sys.modules)


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Context.scratch(tmp_path / "ctx")


@pytest.fixture(scope="session")
def tinylm() -> LanguageModel:
    return LanguageModel(model=str(ROOT / "data/models/tinylm"))


@pytest.fixture(scope="session")
def potion() -> Embedder:
    return Embedder(model=str(ROOT / "data/models/potion-base-4m"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The large real data sets; tests that need them skip cleanly without them."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the shared data sets beside the checkout")
    return SHARED / "data"
