"""What the tests of the UI share: the server of a file's finished study, a browser that starts after it has run, and where its pictures go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium
from dagster_ui import DagsterUI
from small_study import SmallStudy


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--screenshots``, for whoever makes the pictures of the documentation again."""
    parser.addoption("--screenshots", type=Path, help="folder for the pictures of tests/ui/test_walk.py, for example docs/images")


@pytest.fixture(scope="module")
def screenshots(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder asked for, otherwise one that goes with the test run. The option is unknown to runs that do not begin in this folder."""
    folder = request.config.getoption("--screenshots", default=None) or tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def browser(finished: SmallStudy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser context. After the study: Playwright keeps an event loop running in this thread, and Dagster wants its own."""
    with chromium(tmp_path_factory.mktemp("profile")) as context:
        yield context


@pytest.fixture(scope="module")
def ui(finished: SmallStudy) -> Iterator[DagsterUI]:
    """What `sae-pipeline ui` starts on the file's study; it leaves no process behind."""
    server = DagsterUI(str(finished.path), finished.path.parent / "home")
    yield server
    assert server.stop() == []
