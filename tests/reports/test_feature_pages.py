"""Claims about the pages of latents: which are shown, that links lead somewhere, and that text is shown and never run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import synthetic_study

from sae_pipeline.reports.blocks import FeaturePage
from sae_pipeline.reports.features.choice import LATENTS_IN_ALL, LATENTS_PER_SAE, chosen_latents, per_page
from sae_pipeline.reports.features.links import ShownLatents
from sae_pipeline.reports.features.pages import feature_pages
from sae_pipeline.reports.html import render_features

FRAMES = synthetic_study.frames()
SAE = "PRE.L01.x04.topk-k16-t200k-s0"


@pytest.fixture(scope="module")
def pages() -> dict[str, FeaturePage]:
    return {page.sae_id: page for page in feature_pages(FRAMES)}


def reasons(latents: int, saes: int = 1) -> dict[tuple[str, int], list[str]]:
    """Why latents are shown of SAEs that have nothing but firing rates, falling from a twentieth."""
    stats = pd.DataFrame([{"sae_id": f"a{n}", "latent": m, "density": 0.05 / (m + 1)} for n in range(saes) for m in range(latents)])
    tables = replace(FRAMES.tables, saes=pd.concat([FRAMES.tables.saes.head(1)] * saes))
    return chosen_latents(replace(FRAMES, tables=tables, matching=None), stats)


def test_pages_of_many_saes_together_stay_within_the_bound() -> None:
    assert per_page(1) == LATENTS_PER_SAE
    assert all(saes * per_page(saes) <= max(LATENTS_IN_ALL, saes) for saes in (50, 112, 500, 5_000))


def test_the_sample_is_even_over_the_order_of_firing_rates() -> None:
    found = sorted(latent for _, latent in reasons(47))
    assert len(found) == LATENTS_PER_SAE
    assert found == list(range(0, 47, 2))


def test_an_sae_with_few_latents_shows_all_that_fired() -> None:
    assert sorted(latent for _, latent in reasons(5)) == [0, 1, 2, 3, 4]


def test_dense_latents_orphans_and_shared_ones_say_why_they_are_shown(pages: dict[str, FeaturePage]) -> None:
    why = {latent.number: " ".join(latent.reasons) for latent in pages[SAE].latents}
    assert "dense: fires on 40 % of the tokens" in why[1]
    assert "orphan: its nearest direction in SAEs that differ in the mix alone has cosine 0.57" in why[6]
    assert "shared: cosine 0.99 with latent 0 of" in why[0]
    assert "shared" not in why[6]  # its partner lies below the threshold
    assert why[5] == "one of an even sample over firing rates"


def test_a_page_tells_where_a_latent_fires_how_strongly_and_what_is_nearest(pages: dict[str, FeaturePage]) -> None:
    latent = next(latent for latent in pages[SAE].latents if latent.number == 1)
    firing, neighbours = latent.tables
    assert [cell.text for cell in firing.rows[0]][:3] == ["prose", "40.000", "1.00"]
    assert [column for column in firing.columns if column.endswith(" %")] == [f"{share} %" for share in range(10, 100, 10)]
    assert neighbours.rows[0][2].text == "0.920"
    assert [passage.text for passage in latent.passages] == ["time1", "time1"]
    assert latent.passages[0].note == "4.00, prose"


def test_every_link_between_pages_leads_to_a_latent_that_is_shown(pages: dict[str, FeaturePage]) -> None:
    links = [
        cell.link for page in pages.values() for latent in page.latents for table in latent.tables for row in table.rows for cell in row if cell.link
    ]
    anchors = {f"{Path(page.file).name}#latent-{latent.number}" for page in pages.values() for latent in page.latents}
    assert links
    assert set(links) <= anchors


def test_a_latent_without_a_page_is_a_number_without_a_link(pages: dict[str, FeaturePage]) -> None:
    shown = ShownLatents(pages.values())
    assert shown.cell(SAE, 1).link == f"features/{SAE}.html#latent-1"
    assert shown.cell(SAE, 999).link is None
    assert shown.text(SAE, 999).text == "—"


def test_text_that_looks_like_markup_is_shown_as_text(pages: dict[str, FeaturePage]) -> None:
    page = render_features(pages[SAE], "synthetic")
    assert "<mark>&lt;b&gt;time&lt;/b&gt;</mark>" in page
    assert "<b>time" not in page


def test_a_study_that_keeps_no_text_has_no_pages() -> None:
    assert feature_pages(replace(FRAMES, traces=None)) == ()
    empty = {name: frame.iloc[:0] for name, frame in (FRAMES.traces or {}).items()}
    assert feature_pages(replace(FRAMES, traces=empty)) == ()
