"""`python -m pipeline`: the command line, see `pipeline/cli/`."""

from __future__ import annotations

from pipeline.cli.main import main

if __name__ == "__main__":
    main()
