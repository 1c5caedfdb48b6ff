"""`gristmill`, a script that starts the command line from any folder.

    python -m pipeline.cli.launcher .venv/bin/gristmill

Nothing is installed into site-packages: the script names this interpreter and this
repository, and puts the repository in the place of its own folder on `sys.path`, so that
no `pipeline` package of the folder where its user stands is imported instead.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from pipeline import ROOT

# The shell starts the interpreter, since a `#!` line takes neither spaces nor long paths.
# To Python the lines up to the docstring are one string.
SCRIPT: Final = '''\
#!/bin/sh
"exec" {python} "$0" "$@"
"""Gristmill's command line; written by `python -m pipeline.cli.launcher`."""

import sys

sys.path[0] = {root!r}

from pipeline.cli.main import main

if __name__ == "__main__":
    main()
'''


def write(path: Path) -> None:
    """Write the launcher, executable; the folder must exist."""
    text = SCRIPT.format(python=_shell_word(sys.executable), root=str(ROOT))
    path.write_text(text, "utf-8")
    path.chmod(0o755)


def _shell_word(text: str) -> str:
    """A text in double quotes, which mean the same to the shell and, but for `$`, to Python."""
    for special in ("\\", '"', "$", "`"):
        text = text.replace(special, f"\\{special}")
    return f'"{text}"'


if __name__ == "__main__":
    write(Path(sys.argv[1]))
