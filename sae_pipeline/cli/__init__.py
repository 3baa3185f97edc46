"""The command line: each command is a few lines over the engine or the launcher.

Exit codes: 0 done, 1 some cells failed (the rest finished) or a disk, store or database refused, 2 bad input, which includes a hub that
cannot be reached, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys

# isort: off
# Each adds its commands to the application, in the order in which --help lists them.
from sae_pipeline.cli import running, saes, reporting, home  # noqa: F401

# isort: on
from sae_pipeline.cli.base import app
from sae_pipeline.errors import SaePipelineError
from sae_pipeline.notices import hide_notices

__all__ = ["app", "main"]


def main() -> None:
    """Entry point: an error of ours is one sentence on standard error and an exit code, never a traceback."""
    hide_notices()
    try:
        app()
    except SaePipelineError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
