"""Claims about the comparison report: what it holds, that it is the same each time, and that it stands on its own."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import synthetic_study

from sae_pipeline.reports.build import build_report
from sae_pipeline.reports.content import gather
from sae_pipeline.reports.frames import StudyFrames
from sae_pipeline.reports.html import render_html
from sae_pipeline.reports.lineage import lineage_section
from sae_pipeline.reports.markdown import render_markdown

SECTIONS = {
    "summary",
    "matrix",
    "expansion",
    "budget",
    "architecture",
    "seed",
    "tradeoff",
    "text",
    "activations",
    "training",
    "health",
    "generalisation",
    "matching",
    "recommendations",
    "remedies",
    "latents",
    "finding",
    "limitations",
    "lineage",
}
FIGURES = {"matrix", "expansion", "budget", "tradeoff", "training", "text", "activations", "health", "finding", "variance", "matching"} | {
    f"matching-{name}" for name in ("cosines", "widths", "orphans", "coverage", "layers", "map")
}


class Page(HTMLParser):
    """Ids, references and text of an HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                self.references.append(value or "")

    def handle_data(self, data: str) -> None:
        if not self.tags or self.tags[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("report")
    return folder, build_report(folder, synthetic_study.study(), synthetic_study.frames())


def worded(study: Any = None, frames: StudyFrames | None = None, **changes: Any) -> str:
    """The page with some frames replaced and without drawing its figures."""
    frames = replace(frames or synthetic_study.frames(), traces=None, **changes)
    report = gather(study or synthetic_study.study(), frames)
    return render_html(report, {plot.name: b"" for plot in report.plots})


def build(folder: Path, study: Any = None, **changes: Any) -> Page:
    """A report with some frames replaced."""
    build_report(folder, study or synthetic_study.study(), replace(synthetic_study.frames(), traces=None, **changes))
    return Page((folder / "index.html").read_text())


def test_every_section_has_its_stable_id_and_ids_are_unique(built: tuple[Path, dict[str, Any]]) -> None:
    page = Page((built[0] / "index.html").read_text())
    assert set(page.ids) >= SECTIONS
    assert len(page.ids) == len(set(page.ids))


def test_every_link_of_the_navigation_leads_somewhere(built: tuple[Path, dict[str, Any]]) -> None:
    page = Page((built[0] / "index.html").read_text())
    anchors = [reference[1:] for reference in page.references if reference.startswith("#")]
    assert anchors
    assert set(anchors) <= set(page.ids)


def test_page_asks_nothing_of_any_server(built: tuple[Path, dict[str, Any]]) -> None:
    text = (built[0] / "index.html").read_text()
    page = Page(text)
    assert all(reference.startswith(("#", "data:image/png;base64,", "figures/", "features/")) for reference in page.references)
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not re.search(r"@import|url\(|https?://|fetch\(|XMLHttpRequest|import\(", text)


def test_first_screen_names_study_finding_interval_and_verdict_before_anything_else(built: tuple[Path, dict[str, Any]]) -> None:
    text = (built[0] / "index.html").read_text()
    first = Page(text[: text.index('<section id="matrix"')]).text
    for said in ("synthetic", "supported", "An SAE explains more variance on the kind of text it was trained on.", "+0.0213", "[0.0153, 0.0277]"):
        assert said in first
    matrix = synthetic_study.frames().matrix
    for value in matrix["estimate"]:
        assert f"{value:.3f}" in first


def test_every_figure_is_a_png_with_its_data_beside_it_and_inside_the_page(built: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = built
    assert {path.stem for path in (folder / "figures").glob("*.png")} == FIGURES == {path.stem for path in (folder / "figures").glob("*.csv")}
    assert summary["figures"] == len(FIGURES)
    for name in FIGURES:
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert len(pd.read_csv(folder / "figures" / f"{name}.csv"))
    assert (folder / "index.html").read_text().count("data:image/png;base64,") == len(FIGURES)


def test_csv_beside_a_figure_holds_the_estimates_with_their_intervals(built: tuple[Path, dict[str, Any]]) -> None:
    written = pd.read_csv(built[0] / "figures" / "matrix.csv").set_index(["layer", "mix", "evaluation_set"]).sort_index()
    given = synthetic_study.frames().matrix.set_index(["layer", "mix", "evaluation_set"]).sort_index()
    for column in ("estimate", "low", "high"):
        pd.testing.assert_series_equal(written[column], given[column])


def test_markdown_says_the_same_and_refers_to_the_figures_beside_it(built: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = built
    text = (folder / "report.md").read_text()
    assert set(re.findall(r"\]\((figures/[^)]+\.png)\)", text)) == {f"figures/{name}.png" for name in FIGURES}
    assert "[0.0153, 0.0277]" in text.replace("\\", "")
    assert summary["headline"] in text.replace("\\", "")
    for claim in synthetic_study.findings()["claim"].unique():
        assert claim in text


def test_equal_tables_give_equal_bytes(built: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder = built[0]
    build_report(tmp_path, synthetic_study.study(), synthetic_study.frames())
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    for name in files:
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


@pytest.mark.slow
def test_figures_do_not_depend_on_the_users_matplotlib_settings(built: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 30, "savefig.dpi": 33, "axes.facecolor": "red"}):
        build_report(tmp_path, synthetic_study.study(), synthetic_study.frames())
    assert (tmp_path / "figures" / "matrix.png").read_bytes() == (built[0] / "figures" / "matrix.png").read_bytes()


def test_findings_json_keeps_every_row_and_writes_missing_numbers_as_null(built: tuple[Path, dict[str, Any]]) -> None:
    rows = json.loads((built[0] / "findings.json").read_text(), parse_constant=pytest.fail)["findings"]
    assert len(rows) == len(synthetic_study.findings())
    assert {"id", "claim", "scope", "estimate", "low", "high", "verdict", "cells", "documents", "seeds", "note"} <= set(rows[0])
    untested = next(row for row in rows if row["verdict"] == "not_testable")
    assert untested["estimate"] is None
    assert "three or more token budgets" in untested["note"]


def test_no_verdict_is_printed_without_its_evidence(built: tuple[Path, dict[str, Any]]) -> None:
    text = (built[0] / "index.html").read_text()
    cards = re.findall(r'<div class="claim (\w+)[^>]*>(.*?)</div>', text, flags=re.S)
    assert {verdict for verdict, _ in cards} == {"supported", "contradicted", "inconclusive", "not_testable"}
    for verdict, card in cards:
        said = Page(card).text
        assert (
            ("Needs SAEs" in said and "not testable here" in said)
            if verdict == "not_testable"
            else re.search(r"interval \[.*\].*(document|cell)", said)
        )


def test_health_table_has_a_row_per_sae_and_lineage_leads_back_to_the_corpus(built: tuple[Path, dict[str, Any]]) -> None:
    text = (built[0] / "index.html").read_text()
    health = text[text.index('<section id="health"') : text.index('<section id="finding"')]
    lineage = text[text.index('<section id="lineage"') :]
    results = health[: health.index("</table>")]
    for sae_id in synthetic_study.frames().tables.saes["sae_id"]:
        assert results.count(f"<td>{sae_id}</td>") == 1
    row = re.search(r"<tr><td>PRE/activations L01</td>.*?</tr>", lineage, flags=re.S)
    assert row is not None
    assert "PRE/corpus" in row[0]
    assert "subject_model" in row[0]
    assert "torch 2.13.0" in row[0]


def test_the_tables_of_matching_are_listed_with_what_they_are_computed_from() -> None:
    frames = synthetic_study.frames()
    assert frames.lineage is not None
    matched = frames.lineage.iloc[[0]].assign(artifact_stage="matching", what="matching L01", fingerprint="f-m", content="c-f-m")
    section = lineage_section(pd.concat([frames.lineage, matched], ignore_index=True), frames)
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in section.tables[0].rows}
    trained = f"subject (1) → corpus (1) → activations (1) → saes ({len(frames.tables.saes)})"
    assert rows["one_to_one"] == [f"{len((frames.matching or {})['one_to_one']):,}", f"{trained} → matching (1)"]
    assert rows["findings"][1] == f"{trained} → matching (1)"
    assert "matching" not in rows["health"][1]
    assert rows["layer_matches"][1] == trained


def test_hostile_names_are_shown_and_never_run() -> None:
    hostile = '<script>alert(1)</script><img src="https://example.org/x.png" onerror="alert(2)"> | `code` [link](https://example.org)'
    study, findings = synthetic_study.study(description=hostile), synthetic_study.findings().assign(note=hostile)
    page = Page(worded(study, findings=findings))
    assert page.tags.count("script") == 1
    assert not any("example.org" in reference for reference in page.references)
    markdown = render_markdown(gather(study, synthetic_study.frames(findings=findings)))
    assert "<script" not in markdown
    assert "<img" not in markdown
    assert not re.search(r"(?<!\\)\]\(https", markdown)


def test_study_that_varies_nothing_says_so_in_words(tmp_path: Path) -> None:
    frames = synthetic_study.frames()
    one = {"expansion_curve": ("expansion", 4.0), "budget_curve": ("tokens", 200_000)}
    curves = {name: getattr(frames, name).query(f"{factor} == {level}") for name, (factor, level) in one.items()}
    page = build(
        tmp_path, **curves, health=pd.DataFrame(), findings=frames.findings.query("verdict == 'not_testable'"), lineage=frames.lineage.iloc[:0]
    )
    assert set(page.ids) >= SECTIONS - {"latents"}
    for said in ("No SAEs of this study differ in nothing but the expansion factor (found ×4)", "nothing but the token budget (found 200k)", "No health marks",
                 "not testable here", "No lineage was handed to this report"):  # fmt: skip
        assert said in page.text
    assert not (tmp_path / "figures" / "expansion.png").exists()
    assert not (tmp_path / "figures" / "finding.png").exists()


def test_study_without_findings_concludes_nothing() -> None:
    text = Page(worded(findings=synthetic_study.findings().iloc[:0])).text
    assert "No claim was tested in this study, so nothing is concluded." in text


def test_mixes_that_share_no_arm_leave_an_empty_matrix_and_no_winner(tmp_path: Path) -> None:
    nan = float("nan")
    page = build(tmp_path, matrix=synthetic_study.frames().matrix.assign(estimate=nan, low=nan, high=nan, n=0))
    assert "no mix can be compared with another" in page.text
    assert "is highest on" not in page.text
    assert (tmp_path / "figures" / "matrix.png").exists()


def test_a_mix_without_saes_at_a_layer_has_no_row_on_the_first_screen_and_the_reason_stands_below() -> None:
    matrix, nan = synthetic_study.frames().matrix, float("nan")
    absent = (matrix["layer"] == 3) & (matrix["mix"] == "INS")
    gaps = matrix.mask(absent, matrix.assign(estimate=nan, low=nan, high=nan, n=0))
    report = gather(synthetic_study.study(), synthetic_study.frames(matrix=gaps))
    assert [[row[0].text for row in table.rows] for table in report.heat] == [["PRE", "EQ", "INS"], ["PRE", "EQ"]]
    assert not any(cell.text == "—" for table in report.heat for row in table.rows for cell in row)
    assert report.heat_notes == ("Layer 3: no SAE was trained on INS.",)
    assert "Layer 3: no SAE was trained on INS." in Page(render_html(report, {plot.name: b"" for plot in report.plots})).text
    assert "Layer 3: no SAE was trained on INS." in render_markdown(report)

    alone = matrix.mask(matrix["layer"] == 3, matrix.assign(estimate=nan, low=nan, high=nan, n=0))
    report = gather(synthetic_study.study(), synthetic_study.frames(matrix=alone))
    assert [table.caption for table in report.heat] == ["Layer 1"]
    assert report.heat_notes == ("Layer 3: no arm was trained and evaluated on every mix, so no mix can be compared with another.",)


def test_what_could_not_be_tested_is_listed_once() -> None:
    text = Page(worded()).text
    untestable = synthetic_study.findings().query("verdict == 'not_testable' and scope == 'all layers'")
    for claim, note in zip(untestable["claim"], untestable["note"], strict=True):
        limitations = text[text.rindex("One subject model") :]
        assert claim not in limitations
        assert note in text
    assert f"{len(untestable)} of " in limitations
    assert "could not be tested here; the findings say of each what it needs." in limitations


def test_under_and_overcomplete_dictionaries_are_never_one_curve() -> None:
    curve = synthetic_study.frames().expansion_curve
    below = curve.assign(expansion=curve["expansion"] / 16, regime="undercomplete")
    section = Page(worded(expansion_curve=pd.concat([curve, below], ignore_index=True))).text
    assert "From ×4 to ×8" in section
    assert "From ×0.25 to ×0.5" in section
    assert "From ×0.25 to ×8" not in section


@pytest.mark.slow
def test_hundreds_of_saes_stay_in_tables_of_limited_height() -> None:
    text = worded(frames=synthetic_study.frames(copies=6, matching=None))
    assert "All 576 SAEs" in text
    assert len(text) < 3_000_000
    assert text.count("<table") == text.count('<div class="scroll"')
