"""The engine: knows files, graphs and models, and nothing about instructions."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pipeline.interface import open_recipe as open_recipe

ROOT: Final = Path(__file__).resolve().parent.parent
"""The repository: the engine, the stages and the data that come with them."""

DEFAULT_STORE: Final = ROOT / "data" / "artifacts"
"""Where artifacts lie unless `--store` says otherwise, wherever the command is started."""

# Threads of torch that wait for each other spin by default and take the cores from
# those that they wait for: with other work on the machine, generating was measured
# 15 times slower. OpenMP reads this when torch is first imported, which is later.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def __getattr__(name: str) -> Any:
    """`open_recipe`, imported when it is asked for: the command line starts without it."""
    if name == "open_recipe":
        from pipeline.interface import open_recipe

        return open_recipe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
