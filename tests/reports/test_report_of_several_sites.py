"""Claims about the report of a study with several sites, whatever these are called."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import synthetic_study

from sae_pipeline.analysis.tables import StudyTables
from sae_pipeline.reports.blocks import Report
from sae_pipeline.reports.build import write_report
from sae_pipeline.reports.content import gather
from sae_pipeline.reports.frames import StudyFrames
from sae_pipeline.reports.limitations import limitations_section
from sae_pipeline.reports.markdown import render_markdown

ODD = ("resid_post", "mlp/out", "mlp out", "/../../../escaped", 'blocks 1?x=#2 "<b>', "MLP OUT", "日本", "x" * 300)


def frames_at(sites: tuple[str, ...]) -> StudyFrames:
    """The made-up study once per site; what is told of all sites at once is left out."""
    frames, at = synthetic_study.frames(), range(len(sites))
    named = lambda frame, n: frame.assign(sae_id=frame["sae_id"] + f".{n}")  # noqa: E731
    saes = pd.concat([named(frames.tables.saes, n).assign(site=sites[n]) for n in at], ignore_index=True)
    metrics = pd.concat([named(frames.tables.sae_metrics, n) for n in at], ignore_index=True)
    bare = {name: getattr(frames.tables, name).iloc[:0] for name in ("document_sums", "baseline_sums", "feature_stats")}
    of_sites = ("findings", "matrix", "expansion_curve", "budget_curve", "tradeoff")
    left_out = ("generalisation", "health", "root_causes", "proposals", "lineage", "text", "activation_statistics", "massive_tokens", "training",
                "diverged", "matching", "traces", "recommendations", "variance_shares")  # fmt: skip
    return replace(
        frames,
        tables=StudyTables(saes, metrics, **bare),
        **{name: pd.concat([getattr(frames, name).assign(site=site) for site in sites], ignore_index=True) for name in of_sites},
        **dict.fromkeys(left_out),
    )


@pytest.fixture(scope="module")
def report() -> Report:
    return gather(synthetic_study.study(), frames_at(ODD))


def test_anchors_and_figures_are_named_by_safe_names_that_no_two_sites_share(report: Report) -> None:
    ids, figures = [section.id for section in report.sections], [plot.name for plot in report.plots]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,80}", name) for name in [*ids, *figures])
    assert len({name.lower() for name in figures}) == len(figures)
    assert len({name.lower() for name in ids}) == len(ids)
    assert {name.partition("-")[2] for name in figures} == {
        "", "mlp-out", "mlp-out-2", "escaped", "blocks-1-x-2-b", "MLP-OUT-3", "site", "x" * 60,
    }  # fmt: skip
    assert [section.title for section in report.sections if section.id == "matrix-escaped"] == ["Training mix (/../../../escaped)"]


def test_every_figure_of_an_oddly_named_site_lies_in_the_folder_and_is_referred_to(report: Report, tmp_path: Path) -> None:
    few = replace(report, sections=tuple(section for section in report.sections if section.id.startswith("finding")))
    write_report(tmp_path / "report", few)
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert written == {f"report/figures/{plot.name}.png" for plot in few.plots}
    assert len(written) == len(ODD)
    assert {f"report/{name}" for name in re.findall(r"\]\((figures/[^)]+\.png)\)", render_markdown(few))} == written


def test_limitations_name_the_sites_in_words() -> None:
    study = synthetic_study.study(activations={"layers": [1, 3], "tokens": 200_000, "site": ["resid_post", "mlp_out"]})
    point = limitations_section(study, synthetic_study.frames()).points[0]
    assert "at resid_post and mlp_out, layer 1 and layer 3: nothing here" in point


def test_budgets_are_called_runs_of_their_own_only_where_they_share_no_trunk() -> None:
    def said(trunk: int | None) -> str:
        frames = synthetic_study.frames()
        tables = replace(frames.tables, saes=frames.tables.saes.assign(trunk_tokens=trunk))
        sections = gather(synthetic_study.study(), replace(frames, tables=tables, traces=None, matching=None)).sections
        told = {section.id: section.sentences for section in sections}
        assert trunk is None or set(told["training"]) & set(told["budget"])  # in one wording
        return " ".join(told["budget"])

    assert "Every budget is a run of its own" in said(None)
    assert "Every budget is a run of its own" not in said(50_000)
    assert "The budgets of 96 SAEs share a trunk" in said(50_000)
