"""A real browser on what `sae-pipeline ui` starts, on the daemon behind it, and on the comparison report as a file.

The tests share one finished study and one server, and run in the order of the file: the last ones change the study.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from browser import chromium_or_skip, visit
from commands import answer
from dagster_ui import DagsterUI, choose_partition, patiently
from small_study import SmallStudy

pytestmark = pytest.mark.ui
SECTIONS = ("summary", "matrix", "expansion", "budget", "tradeoff", "finding", "health", "lineage", "limitations")
LANE = {"MORE/corpus", "MORE/activations", "MORE/saes", "MORE/metrics", "MORE/scorecard"}
CONCLUSIONS = {"text_tables", "metric_tables", "findings", "comparison_report"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_study_data: dict[str, Any]) -> SmallStudy:
    """One SAE per mix, run by the command line; its home lies beside it.

    It comes before the browser: Playwright keeps an event loop running in this thread, and Dagster wants its own.
    """
    chromium_or_skip()
    folder = tmp_path_factory.mktemp("ui")
    study = SmallStudy(folder / "toy.yaml", small_study_data)
    activations = small_study_data["activations"] | {"layers": [0]}
    saes = small_study_data["saes"] | {"expansions": [2], "arms": [{"architecture": "topk", "k": 4, "seeds": [0]}]}
    study.data = small_study_data | {"activations": activations, "saes": saes}
    answer(folder / "home", "run", study.write(), "--json")
    return study


# ------------------------------------------------------------------------------------------------ the report, a file


@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_file_shows_every_section_and_fits_the_window(finished: SmallStudy, page: Any, width: int) -> None:
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.set_viewport_size({"width": width, "height": 800})
    visit(page, (finished.path.parent / "home" / "studies" / "toy" / "report" / "index.html").as_uri())
    for section in SECTIONS:
        assert page.locator(f"#{section}").is_visible(), section
    widths = page.locator("img").evaluate_all("images => images.map(image => image.complete && image.naturalWidth)")
    assert widths
    assert all(widths)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert complaints == []


def test_a_table_of_the_report_sorts_both_ways_on_a_click(finished: SmallStudy, page: Any) -> None:
    visit(page, (finished.path.parent / "home" / "studies" / "toy" / "report" / "index.html").as_uri())
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    table = page.locator("table.sortable").filter(has=page.locator("tbody tr:nth-child(3)")).first
    column = table.locator("thead th").first
    orders = {}
    for direction in ("ascending", "descending"):
        for _ in range(2):
            if column.get_attribute("aria-sort") != direction:
                column.locator("button").click()
        assert column.get_attribute("aria-sort") == direction
        orders[direction] = table.locator("tbody tr td:first-child").all_inner_texts()
    assert sorted(orders["ascending"]) == sorted(orders["descending"])
    assert orders["ascending"] == sorted(orders["ascending"], key=str.casefold)
    assert orders["descending"] == sorted(orders["descending"], key=str.casefold, reverse=True)


# ------------------------------------------------------------------------------------------------ the Dagster UI


def test_the_graph_shows_a_lane_per_mix_and_opens_one(ui: DagsterUI, page: Any) -> None:
    visit(page, f"{ui.url}/asset-groups")
    for lane in ("MORE", "LESS", "held_out", "subject", "sources", "reports"):
        page.get_by_title(lane, exact=True).first.wait_for()
    assert page.get_by_text("scorecard", exact=True).count() == 0
    page.locator("[data-tooltip='MORE']").first.click()
    for asset in ("corpus", "activations", "saes", "metrics", "scorecard"):
        page.get_by_text(asset, exact=True).locator("visible=true").first.wait_for()


def test_the_report_asset_shows_its_headline_its_figure_and_its_check(ui: DagsterUI, page: Any) -> None:
    visit(page, f"{ui.url}/assets/toy/comparison_report")
    page.get_by_text("headline", exact=True).wait_for()
    page.get_by_text(str(Path("studies", "toy", "report", "index.html"))).first.wait_for()
    page.get_by_text("[Show Markdown]").first.click()
    picture = page.get_by_role("dialog").locator("img")
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 400
    visit(page, f"{ui.url}/assets/toy/comparison_report?view=checks")
    page.get_by_text("every_section_present").first.wait_for()
    page.get_by_text("Passed", exact=True).wait_for()


def test_a_partition_is_materialised_by_clicks_and_reuses_the_store(ui: DagsterUI, page: Any) -> None:
    before = ui.materialization("toy", "MORE", "saes")
    assert (before["computed"], before["reused"]) == (1, 0)
    visit(page, f"{ui.url}/assets/toy/MORE/saes?view=partitions")
    dialog = choose_partition(page, "L00", "x02")
    dialog.get_by_role("button", name="Launch").click()
    now = patiently("a new materialisation", lambda: (m := ui.materialization("toy", "MORE", "saes"))["run"] != before["run"] and m, 120)
    assert (now["partition"], now["computed"], now["reused"]) == ("L00|x02", 0, 1)
    patiently("the run succeeded", lambda: any(run["id"] == now["run"] and run["status"] == "SUCCESS" for run in ui.runs(0)))
    visit(page, f"{ui.url}/runs/{now['run']}")
    page.get_by_text("Success", exact=True).first.wait_for()


@pytest.mark.slow
def test_the_daemon_reruns_one_lane_after_an_edit_and_nothing_else(ui: DagsterUI, page: Any, finished: SmallStudy) -> None:
    started = time.time()
    visit(page, f"{ui.url}/automation")
    page.get_by_text("rerun_stale").first.wait_for()
    page.locator("label[class*=Switch]").first.click()
    # Conditions compare two ticks: the first only takes note of how things stand.
    patiently("two ticks", lambda: len(ui.ticks(started)) >= 2, 300)
    assert ui.runs(started) == []

    finished.write(lambda data: data["mixes"].update(MORE={"stories": 0.5, "recipes": 0.5}))
    edited = time.time()
    visit(page, f"{ui.url}/asset-groups")
    page.get_by_role("button", name="Reload definitions").click()
    patiently(
        "the report is made again", lambda: any("comparison_report" in run["assets"] and run["status"] == "SUCCESS" for run in ui.runs(edited)), 400
    )
    last = time.time()
    patiently("two more ticks", lambda: len(ui.ticks(last)) >= 2, 300)
    runs = ui.runs(started)
    assert [run for run in runs if run["status"] != "SUCCESS"] == []
    assert sorted(asset for run in runs for asset in run["assets"]) == sorted(LANE | CONCLUSIONS)
    assert ui.materialization("toy", "MORE", "saes")["computed"] == 1
    assert ui.materialization("toy", "comparison_report")["computed"] == 1
    visit(page, f"{ui.url}/runs")
    page.get_by_text("Success", exact=True).nth(len(runs) - 1).wait_for()
