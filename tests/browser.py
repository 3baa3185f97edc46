"""A real browser for tests that open a page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync"]


def chromium_or_skip() -> str:
    """The machine's Chromium. Without one the test is skipped, or fails where ``SAE_REQUIRE_BROWSER`` is set."""
    executable = shutil.which("chromium")
    if executable is None:
        reason = "no chromium on this machine; Debian and Ubuntu: apt-get install chromium"
        if os.environ.get("SAE_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    return executable


@contextmanager
def chromium(folder: Path) -> Iterator[Any]:
    """A Playwright browser context with an empty profile in ``folder``."""
    executable = chromium_or_skip()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            folder, executable_path=executable, headless=True, viewport={"width": 1600, "height": 1000}, args=[f"--{flag}" for flag in FLAGS]
        )
        context.set_default_timeout(40_000)
        yield context
        context.close()


def visit(page: Any, url: str) -> None:
    """Open a page without waiting for a quiet network: Dagster's UI never stops polling."""
    page.goto(url, wait_until="domcontentloaded")
