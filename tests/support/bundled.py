"""The bundled recipes as YAML has them, each read once: hundreds of tests change one of them."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any, Final

import yaml

from pipeline.recipe.recipe import RECIPES

NAMES: Final = sorted(path.stem for path in RECIPES.glob("*.yaml"))


@cache
def _content(name: str) -> Any:
    # PyYAML's own parser in Python takes a second for ten of them.
    return yaml.load((RECIPES / f"{name}.yaml").read_text("utf-8"), yaml.CSafeLoader)


def content(name: str) -> dict[str, Any]:
    """The mappings of a recipe, for a test to change; what an anchor names twice is one object.

    Args:
        name: The recipe's name.
    """
    copied: dict[str, Any] = deepcopy(_content(name))
    return copied
