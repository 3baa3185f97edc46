"""One study on one process, on several, and on Ray: the same SAEs to the last bit, the same tables, and nothing twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
from executor_runs import run, weights
from small_study import SmallStudy

from sae_pipeline.store import Home

pytestmark = pytest.mark.slow

EXECUTORS = {
    "one process of two threads": {"SAE_EXECUTOR": "in_process", "OMP_NUM_THREADS": "2"},
    "two processes of one thread": {"SAE_EXECUTOR": "multiprocess", "SAE_WORKERS": "2", "OMP_NUM_THREADS": "1"},
    "two tasks on Ray": {"SAE_EXECUTOR": "ray", "SAE_WORKERS": "2"},
}
MEASURED = ("seconds", "per_second", "resident_bytes", "created", "started", "host", "path", "threads", "kernels")
"""Parts of the names of columns that say how long something took, what memory it needed, when, and where."""
FOLLOWS = "contents"
"""Table of the fingerprints of tables, which hold what was measured."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_study_data: dict[str, Any]) -> dict[str, tuple[str, Path, dict[str, Any]]]:
    """Study file, home and answer of the first run, by executor."""
    folder = tmp_path_factory.mktemp("executors")
    study = SmallStudy(folder / "toy.yaml", small_study_data).write(lambda data: data["activations"].update(layers=[1]))
    return {name: (study, folder / f"home-{n}", run(study, folder / f"home-{n}", **settings)) for n, (name, settings) in enumerate(EXECUTORS.items())}


def test_every_executor_trains_the_same_bits(finished: dict[str, tuple[str, Path, dict[str, Any]]]) -> None:
    one, *others = (weights(home) for _, home, _ in finished.values())
    assert len(one) == 2 * 2 * 2  # mixes, expansion factors, seeds
    assert all(other == one for other in others)


def rows(home: Path) -> dict[str, tuple[list[str], list[tuple[Any, ...]]]]:
    """Columns and sorted rows of every table of the warehouse, without what was measured."""
    found = {}
    with duckdb.connect(str(Home(home).warehouse("toy")), read_only=True) as warehouse:
        for (table,) in warehouse.execute("SHOW TABLES").fetchall():
            if table == FOLLOWS:
                continue
            columns = [name for name, *_ in warehouse.execute(f'DESCRIBE "{table}"').fetchall() if not any(part in name for part in MEASURED)]
            listed = ", ".join(f'"{name}"' for name in columns)
            found[table] = (columns, warehouse.execute(f'SELECT {listed} FROM "{table}" ORDER BY ALL').fetchall())
    return found


def test_every_executor_writes_the_same_tables(finished: dict[str, tuple[str, Path, dict[str, Any]]]) -> None:
    one, *others = (rows(home) for _, home, _ in finished.values())
    assert one["sae_metrics"][1]
    for other in others:
        assert other.keys() == one.keys()
        for table, content in one.items():
            assert repr(other[table]) == repr(content), table  # as text: nan differs from itself


def test_every_executor_counts_alike_and_computes_nothing_twice(finished: dict[str, tuple[str, Path, dict[str, Any]]]) -> None:
    one, *others = (answer for _, _, answer in finished.values())
    counted = ("launched", "computed", "reused", "computed_by_asset")
    assert all({name: other[name] for name in counted} == {name: one[name] for name in counted} for other in others)
    for settings, (study, home, _) in zip(EXECUTORS.values(), finished.values(), strict=True):
        again = run(study, home, **settings)
        assert (again["launched"], again["computed"]) == (0, 0)
