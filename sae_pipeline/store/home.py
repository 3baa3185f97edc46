"""Where things lie: ``SAE_HOME`` holds the store, Dagster's home and one folder per study."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sae_pipeline.store.artifacts import Store
from sae_pipeline.store.shared import SharedStore


@dataclass(frozen=True)
class Home:
    """The folder named by ``SAE_HOME``, by default ``.sae`` in the working directory."""

    root: Path

    @classmethod
    def from_environment(cls) -> Home:
        """The home that the environment names."""
        return cls(Path(os.environ.get("SAE_HOME") or ".sae").expanduser().resolve())

    @property
    def existing_root(self) -> Path:
        """The folder itself, or the nearest one above it that exists: where free space can be asked for."""
        return next(folder for folder in (self.root, *self.root.parents) if folder.exists())

    @property
    def store(self) -> Store:
        """Artifacts of all studies: equal work is done once, on all machines where ``SAE_STORE`` names a store that they share."""
        return Store(self.root / "store", SharedStore.from_environment())

    @property
    def dagster(self) -> Path:
        """The DAGSTER_HOME of every command."""
        return self.root / "dagster"

    @property
    def locks(self) -> Path:
        """Device leases and set-up locks."""
        return self.root / "locks"

    def study(self, name: str) -> Path:
        """What a study shows its user: the warehouse and the report."""
        return self.root / "studies" / name

    def warehouse(self, name: str) -> Path:
        """The study's DuckDB file."""
        return self.study(name) / "warehouse.duckdb"

    def dense_latents(self, name: str) -> Path:
        """The ids of the study's dense latents."""
        return self.study(name) / "dense_latents.json"

    def history(self, name: str) -> Path:
        """One folder per recorded evaluation of the study."""
        return self.study(name) / "history" / "records"

    def history_page(self, name: str) -> Path:
        """The page of the recorded evaluations."""
        return self.study(name) / "history" / "page" / "index.html"

    def versions(self, name: str) -> Path:
        """Copies of the study's warehouse at earlier dates, and the pages that compare each with the one before."""
        return self.study(name) / "history" / "versions"

    def rubric_page(self, name: str) -> Path:
        """The page of the rubrics under review."""
        return self.study(name) / "rubrics" / "index.html"

    def report(self, name: str) -> Path:
        """The study's HTML report."""
        return self.study(name) / "report" / "index.html"
