"""The documentation builds as a site without a warning, lists every page, and asks nobody for anything when it is read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built anew; a warning is an error (``strict`` in mkdocs.yml)."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


def test_every_page_is_in_the_navigation() -> None:
    def listed(part: object) -> set[str]:
        return {part} if isinstance(part, str) else set().union(*map(listed, part.values() if isinstance(part, dict) else part))  # type: ignore[call-overload]

    told = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"]
    assert listed(told) == {page.name for page in (REPOSITORY / "docs").glob("*.md")}


def test_every_page_is_built(site: Path) -> None:
    assert {page.stem for page in (REPOSITORY / "docs").glob("*.md")} <= {page.stem for page in site.glob("*.html")}


def test_reading_a_page_asks_no_other_server(site: Path) -> None:
    for page in site.glob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]* src=[\"']?([^\"' >]+)|<link[^>]* rel=[\"']?(?:stylesheet|preconnect)[^>]* href=[\"']?([^\"' >]+)",
            page.read_text(),
        )
        assert not [url for pair in loaded for url in pair if url.startswith(("http:", "https:", "//"))], page.name
