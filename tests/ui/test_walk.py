"""A newcomer's walk through the UI: graph, asset, partition, checks, launch dialog, run, schedules; each step leaves a picture.

`pytest tests/ui/test_walk.py --screenshots docs/images` makes the pictures of docs/ui.md again; without the option they go with
the run's temporary folder. The steps share one finished study and one server, and run in the order of the file.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import chromium_or_skip, visit
from commands import answer
from dagster_ui import DagsterUI, choose_partition, patiently
from PIL import Image
from small_study import SmallStudy

from sae_pipeline.stages import history
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import load_study

pytestmark = [pytest.mark.ui, pytest.mark.slow]
SMALL = Path(__file__).resolve().parents[2] / "studies/small.yaml"
GROUPS = ("sources", "subject", "held_out", "PRE", "INS", "matching", "reports")
LANE = ("corpus", "activations", "saes", "metrics", "scorecard")
LARGEST = 200_000
"""Bytes of a picture: a page of the documentation holds a dozen."""

Keep = Callable[[Any, str], None]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    """The shipped small study at two layers and two widths, with every schedule asked for, run once and evaluated on two more windows."""
    chromium_or_skip()
    folder = tmp_path_factory.mktemp("walk")
    data = yaml.safe_load(SMALL.read_text())
    data |= {"name": "mixtures", "description": "What instruction text in the training mix does to the features of a small model."}
    data["subject"]["bundled"]["tokens"] = 300_000
    data["corpus"] = {"held_out_share": 0.3, "held_out_windows": 4}
    data["activations"]["layers"], data["saes"]["expansions"] = [0, 1], [2, 4]
    data["matching"] = {}
    data["schedules"] = {"report": "0 3 * * 1", "evaluation": "0 4 * * 1", "versions": "0 5 1 * *", "rubric_review": "0 6 1 1,4,7,10 *"}
    study = SmallStudy(folder / "mixtures.yaml", data)
    answer(folder / "home", "run", study.write(), "--json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAE_HOME", str(folder / "home"))
        ctx = StudyContext.open(load_study(str(study.path)))
        for window in (1, 2):
            history.evaluate(ctx, window)
    return study


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A tab whose complaints fail the test."""
    page, complaints = browser.new_page(), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    yield page
    page.close()
    assert complaints == []


@pytest.fixture(scope="module")
def keep(screenshots: Path) -> Keep:
    """Keeps a picture of what the window shows, with a palette, so that it is small."""

    def shoot(page: Any, name: str) -> None:
        page.wait_for_timeout(1_000)  # for what moves to come to rest
        picture = screenshots / f"ui-{name}.png"
        Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(128).save(picture, optimize=True)
        assert picture.stat().st_size < LARGEST

    return shoot


def see(page: Any, *texts: str) -> None:
    """Wait until each of the texts can be seen somewhere on the page."""
    for text in texts:
        page.get_by_text(text).locator("visible=true").first.wait_for()


# ------------------------------------------------------------------------------------------------ looking


def test_a_finished_study_shows_nothing_to_be_done(ui: DagsterUI) -> None:
    nodes = ui.ask("{assetNodes {assetKey {path} isMaterializable staleStatus}}")["assetNodes"]
    assert {tuple(node["assetKey"]["path"]) for node in nodes if node["isMaterializable"] and node["staleStatus"] != "FRESH"} == set()


def test_the_graph_leads_from_the_sources_over_the_mixes_to_the_report(ui: DagsterUI, page: Any, keep: Keep) -> None:
    visit(page, f"{ui.url}/asset-groups")
    for group in GROUPS:
        page.get_by_title(group, exact=True).first.wait_for()
    keep(page, "graph")


def test_a_lane_is_a_mix_from_its_text_to_its_scorecard(ui: DagsterUI, page: Any, keep: Keep) -> None:
    visit(page, f"{ui.url}/asset-groups")
    page.locator("[data-tooltip='PRE']").first.click()
    for asset in LANE:
        page.get_by_text(asset, exact=True).locator("visible=true").first.wait_for()
    keep(page, "lane")


def test_an_asset_explains_itself_with_the_studys_own_values(ui: DagsterUI, page: Any, keep: Keep) -> None:
    visit(page, f"{ui.url}/assets/mixtures/PRE/saes")
    see(page, "Sparse autoencoders trained on PRE (70 % prose + 30 % instructions).", "Reads the activations of this mix", "expansion factors 2, 4")
    see(page, "mix: PRE", "stage: saes", "source/prose: 0.7", "architecture/batchtopk", "in editor", "train_and_evaluate")
    keep(page, "asset")


def test_a_partition_shows_its_saes_and_the_chain_back_to_the_text(ui: DagsterUI, page: Any, keep: Keep) -> None:
    visit(page, f"{ui.url}/assets/mixtures/PRE/saes?view=partitions&partition=L00%7Cx02")
    see(page, "topk-k8-t30k-s0", "batchtopk-k8-t30k-s0", "PRE/corpus", "PRE/activations L00", "PRE.L00.x02.topk-k8-t30k-s0")
    keep(page, "partition")
    page.get_by_text("[Show Markdown]").first.click()
    curves = page.get_by_role("dialog").locator("img")
    curves.wait_for()
    assert curves.evaluate("image => image.naturalWidth") > 400
    keep(page, "curves")


def test_checks_say_what_is_wrong_with_which_sae(ui: DagsterUI, page: Any, keep: Keep) -> None:
    visit(page, f"{ui.url}/assets/mixtures/PRE/scorecard?view=checks")
    specs = ui.ask(
        "query($key: AssetKeyInput!) {assetNodeOrError(assetKey: $key) {... on AssetNode {assetChecksOrError {... on AssetChecks {checks {name}}}}}}",
        key={"path": ["mixtures", "PRE", "scorecard"]},
    )["assetNodeOrError"]["assetChecksOrError"]["checks"]
    see(page, *(spec["name"] for spec in specs))
    page.get_by_text("latents_are_alive").first.click()  # half of so small a dictionary never fires
    see(page, "of 6 SAEs marked down", "the worst is")
    keep(page, "checks")


def test_findings_show_verdicts_with_intervals_and_what_they_rest_on(ui: DagsterUI, page: Any, keep: Keep) -> None:
    visit(page, f"{ui.url}/assets/mixtures/findings")
    see(page, "Every claim as a tested hypothesis", "S0-13", "inconclusive", "metric_tables")
    page.get_by_text("S0-13").first.scroll_into_view_if_needed()
    keep(page, "findings")


def test_the_tables_name_their_columns_and_what_they_mean(ui: DagsterUI, page: Any, keep: Keep) -> None:
    visit(page, f"{ui.url}/assets/mixtures/metric_tables")
    see(page, "explained_variance", "share of the activations' variance that reconstructions explain", "Row count")
    keep(page, "tables")


def test_the_report_is_fresh_and_shows_its_headline_and_its_figure(ui: DagsterUI, page: Any, keep: Keep) -> None:
    visit(page, f"{ui.url}/assets/mixtures/comparison_report")
    see(page, "Freshness policy", "headline", str(Path("studies", "mixtures", "report", "index.html")))
    keep(page, "report")


# ------------------------------------------------------------------------------------------------ doing


def test_a_partition_is_launched_by_clicks_alone_and_its_run_can_be_followed(ui: DagsterUI, page: Any, keep: Keep) -> None:
    before = ui.materialization("mixtures", "PRE", "saes")["run"]
    visit(page, f"{ui.url}/assets/mixtures/PRE/saes?view=partitions")
    dialog = choose_partition(page, "L00", "x02")
    keep(page, "launch")
    dialog.get_by_role("button", name="Launch").click()
    now = patiently("a new materialisation", lambda: (m := ui.materialization("mixtures", "PRE", "saes"))["run"] != before and m, 180)
    assert (now["partition"], now["computed"], now["reused"]) == ("L00|x02", 0, 3)
    patiently("the run succeeded", lambda: any(run["id"] == now["run"] and run["status"] == "SUCCESS" for run in ui.runs(0)))
    visit(page, f"{ui.url}/runs/{now['run']}")
    see(page, "Success", "mixtures__PRE__saes")
    keep(page, "run")


def test_the_history_is_gathered_by_one_click_and_plots_every_evaluation(ui: DagsterUI, page: Any, keep: Keep) -> None:
    before = ui.materialization("mixtures", "evaluation_history")["run"]
    visit(page, f"{ui.url}/assets/mixtures/evaluation_history")
    page.get_by_role("button", name="Materialize").first.click()
    now = patiently("a new materialisation", lambda: (m := ui.materialization("mixtures", "evaluation_history"))["run"] != before and m, 180)
    assert now["records"] == 3
    visit(page, f"{ui.url}/assets/mixtures/evaluation_history?view=events")
    page.get_by_text("[Show Markdown]").first.click()
    page.get_by_role("dialog").locator("img").wait_for()
    keep(page, "history")


def test_jobs_are_the_stages_of_the_study(ui: DagsterUI, page: Any, keep: Keep) -> None:
    visit(page, f"{ui.url}/jobs")
    see(page, "prepare_text", "harvest_activations", "train_and_evaluate", "draw_scorecards", "refresh_report", "evaluate_again")
    keep(page, "jobs")


def test_schedules_that_the_study_names_run_and_what_it_does_not_switch_on_waits(ui: DagsterUI, page: Any, keep: Keep) -> None:
    visit(page, f"{ui.url}/automation")
    see(page, "scheduled_evaluation", "scheduled_scorecards", "scheduled_refresh", "scheduled_versions", "scheduled_rubric_review", "rerun_stale")
    page.locator("label[class*=Switch] input").nth(5).wait_for(state="attached")  # switches come after the names
    assert page.locator("label[class*=Switch] input:checked").count() == 5  # all but the sensor's
    keep(page, "automation")
