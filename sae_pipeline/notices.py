"""What Dagster says to those who write pipelines, kept from those who use one."""

from __future__ import annotations

import warnings


def hide_notices() -> None:
    """Silence, in this process, that a feature of Dagster's is in beta; every process of ours that builds definitions begins with it."""
    warnings.filterwarnings("ignore", message=".*is currently in beta")
