"""The study's DuckDB warehouse as a Dagster resource."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from resources.home import HomeResource

if TYPE_CHECKING:
    import duckdb


class WarehouseResource(dg.ConfigurableResource):
    """Read access to ``warehouse.duckdb``.

    ``metric_tables``, ``findings`` and ``evaluation_history`` write it, and the commands ``report`` and ``evaluate``.
    """

    home: HomeResource = Field(description="the home whose studies/<name>/warehouse.duckdb is read")

    @contextmanager
    def connect(self, study: str) -> Iterator[duckdb.DuckDBPyConnection]:
        """A read-only connection to a study's warehouse."""
        import duckdb

        with duckdb.connect(str(self.home.open().warehouse(study)), read_only=True) as connection:
            yield connection
