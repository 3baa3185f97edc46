"""The manual page of the metrics is the registry in words."""

from __future__ import annotations

from pathlib import Path

from sae_pipeline.metrics.manual import page
from sae_pipeline.metrics.registry import METRICS

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_page_is_up_to_date() -> None:
    """Run `python -m sae_pipeline.metrics.manual > docs/metrics.md` after a change of the registry."""
    assert (REPOSITORY / "docs/metrics.md").read_text() == page()


def test_every_id_has_a_section_with_formula_unit_and_range() -> None:
    for name in METRICS:
        section = page().split(f"### `{name}`\n")[1].split("\n### ")[0]
        for row in ("| formula |", "| unit |", "| range |", "| missing when |"):
            assert row in section, name


def test_rivals_come_last_and_name_their_source() -> None:
    """Whoever looks one up wants to know whose formula it is."""
    rivals = [name for name in METRICS if name.startswith("legacy.")]
    assert list(METRICS)[-len(rivals) :] == rivals
    assert all(METRICS[name].source and METRICS[name].elsewhere for name in rivals)
