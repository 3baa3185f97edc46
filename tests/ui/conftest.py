"""What the tests of the UI share: a browser that starts after a file's study has run, and where its pictures go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium
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


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A tab of the browser."""
    page = browser.new_page()
    yield page
    page.close()
