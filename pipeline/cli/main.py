"""The command line as a whole; verbs are listed in the order of these imports."""

from __future__ import annotations

import io
import sys

# isort: off
from pipeline.cli import run as run
from pipeline.cli import inspect as inspect
from pipeline.cli import methods as methods
from pipeline.cli import sample as sample
from pipeline.cli import report as report
from pipeline.cli import release as release
from pipeline.cli import diff as diff
from pipeline.cli import verify as verify
from pipeline.cli import refresh as refresh
from pipeline.cli import publish as publish
from pipeline.cli import train as train
from pipeline.cli import store as store
from pipeline.cli import journal as journal

# isort: on
from pipeline.cli.app import app
from pipeline.errors import program
from pipeline.terminal import protect


def main() -> None:
    """Run the verb that `sys.argv` names."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names and terminals that are not Unicode; standard error does so by itself.
        sys.stdout.reconfigure(errors="backslashreplace")
    protect()
    app(prog_name=program())
