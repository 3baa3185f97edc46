"""The report as HTML: one page that carries everything it shows, and one per SAE with its latents; none asks anything of any server."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sae_pipeline.reports.blocks import FeaturePage, Report
from sae_pipeline.reports.folder import MARK
from sae_pipeline.reports.style import MARK_COLOURS, VERDICT_COLOURS

TEMPLATES = Path(__file__).parent / "templates"


def render_html(report: Report, pictures: Mapping[str, bytes]) -> str:
    """The page.

    Args:
        report: what to say.
        pictures: PNG bytes by figure name; they become data: URIs.
    """
    sources = {name: "data:image/png;base64," + base64.b64encode(png).decode("ascii") for name, png in pictures.items()}
    return _render("report.html", report=report, sources=sources)


def render_features(page: FeaturePage, study: str) -> str:
    """The page of an SAE's latents, which lies in the folder ``features`` beside the report of ``study``."""
    return _render("features.html", page=page, study=study, sources={})


def _render(template: str, **said: Any) -> str:
    script = (TEMPLATES / "tables.js").read_text(encoding="utf-8")
    # The one script that a browser runs on the page is the one with this hash, whatever else got into the page.
    allowed = base64.b64encode(sha256(script.encode()).digest()).decode("ascii")
    look = {"mark_colours": MARK_COLOURS, "verdict_colours": VERDICT_COLOURS, "script": Markup(script), "script_hash": f"sha256-{allowed}"}
    return _templates().get_template(template).render(generator=Markup(MARK), **look, **said)


@cache
def _templates() -> Environment:
    # Undefined names raise, so that a misspelt field is an error and not an empty space in somebody's report.
    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
