"""The engine: knows files, graphs and models, and nothing about instructions."""

import os
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
"""The repository: the engine, the stages and the data that come with them."""

DEFAULT_STORE: Final = ROOT / "data" / "artifacts"
"""Where artifacts lie unless `--store` says otherwise, wherever the command is started."""

# Threads of torch that wait for each other spin by default and take the cores from
# those that they wait for: with other work on the machine, generating was measured
# 15 times slower. OpenMP reads this when torch is first imported, which is later.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
