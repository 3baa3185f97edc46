"""The benchmarks' own modules can be imported, as they are when one of their programs runs."""

from __future__ import annotations

import pytest
from benchmark_runs import FOLDER


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER / "workers"))
    monkeypatch.syspath_prepend(str(FOLDER))
