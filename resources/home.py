"""The home folder (store, studies, locks) as a Dagster resource."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
from pydantic import Field

from sae_pipeline.store import Home


class HomeResource(dg.ConfigurableResource):
    """Where artifacts, reports and locks lie; empty takes ``SAE_HOME``, by default ``.sae`` in the working directory."""

    root: str = Field(default="", description="the home folder; empty: SAE_HOME, by default .sae in the working directory")

    def open(self) -> Home:
        """The engine's view of the folder."""
        return Home(Path(self.root).resolve()) if self.root else Home.from_environment()
