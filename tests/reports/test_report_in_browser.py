"""Claims about the report in a real browser: what a reader sees, clicks and prints, without a network."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import synthetic_study
from browser import chromium, chromium_or_skip

from sae_pipeline.analysis.tables import StudyTables
from sae_pipeline.reports.blocks import Cell, Report, Section, Table
from sae_pipeline.reports.build import build_report, write_report

pytestmark = pytest.mark.ui
PHONE, DESK = 360, 1280


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chromium_or_skip()
    folder = tmp_path_factory.mktemp("report")
    build_report(folder, synthetic_study.study(), synthetic_study.frames())
    return folder


@pytest.fixture(scope="module")
def browser(report: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as context:
        yield context


def visit(page: Any, file: Path, width: int = DESK) -> tuple[list[str], list[str]]:
    """Open a file; what the console complains about, and what was asked of a server, while the page lives."""
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else requests.append(request.url))
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(file.as_uri())
    return complaints, requests


def one_feature_page(report: Path) -> Path:
    return sorted((report / "features").glob("*.html"))[0]


@pytest.mark.parametrize("width", [320, PHONE, 400, DESK])
def test_no_page_is_wider_than_the_window_or_complains_or_asks_a_server(report: Path, page: Any, width: int) -> None:
    for file in (report / "index.html", one_feature_page(report)):
        complaints, requests = visit(page, file, width)
        page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert (complaints, requests) == ([], [])


@pytest.mark.parametrize("width", [DESK, 1024, 390])
def test_every_entry_of_the_navigation_can_be_seen_and_clicked(report: Path, page: Any, width: int) -> None:
    visit(page, report / "index.html", width)
    entries = page.locator("nav a")
    assert entries.count() > 12
    for entry in entries.all():
        assert entry.is_visible()
        box = entry.bounding_box()
        assert 0 <= box["x"] <= box["x"] + box["width"] <= width
    last = entries.last
    target = last.get_attribute("href")
    last.click()
    page.wait_for_function("target => document.querySelector(target).getBoundingClientRect().top < innerHeight", arg=target)
    if width > 860:  # where it stays, it hides no heading
        height = page.locator("nav").bounding_box()["height"]
        assert height < 0.3 * 800
        page.locator("nav a[href='#health']").click()
        below = "height => (top => height <= top && top < innerHeight)(document.querySelector('#title-health').getBoundingClientRect().top)"
        page.wait_for_function(below, arg=height)


def test_every_figure_is_there_with_words_for_those_who_cannot_see_it(report: Path, page: Any) -> None:
    visit(page, report / "index.html")
    images = page.locator("img").evaluate_all("all => all.map(one => [one.complete && one.naturalWidth, one.alt.length])")
    assert len(images) == len(list((report / "figures").glob("*.png")))
    assert all(width > 300 and words > 20 for width, words in images)


def test_every_link_of_every_page_leads_to_something_that_is_there(report: Path, page: Any) -> None:
    visit(page, report / "index.html")
    collect = "all => all.map(one => one.href)"
    links = set(page.locator("a").evaluate_all(collect))
    visit(page, one_feature_page(report))
    links |= set(page.locator("a").evaluate_all(collect))
    anchors: dict[str, str] = {}
    for link in sorted(links):
        target = urlsplit(link)
        assert target.scheme == "file", link
        file = Path(unquote(target.path))
        assert file.is_file(), link
        if target.fragment:
            text = anchors.setdefault(str(file), file.read_text(encoding="utf-8"))
            assert f'id="{target.fragment}"' in text, link


def test_a_number_in_a_matching_table_leads_to_the_page_of_the_latent(report: Path, page: Any) -> None:
    visit(page, report / "index.html")
    page.locator("#matching-orphans details").evaluate_all("all => all.forEach(one => one.open = true)")
    link = page.locator("#matching-orphans td a").first
    number = link.inner_text()
    link.click()
    assert page.locator(f"#latent-{number} h2").inner_text() == f"Latent {number}"
    assert page.locator(f"#latent-{number} mark").first.is_visible()
    for _ in range(100):  # it scrolls smoothly
        if (top := page.locator(f"#latent-{number}").bounding_box()["y"]) < 300:
            break
        page.wait_for_timeout(50)
    assert top < 300


def test_every_table_that_can_be_sorted_sorts_every_column_both_ways(report: Path, page: Any) -> None:
    visit(page, report / "index.html")
    wrong = page.evaluate(
        """() => {
          const wrong = [];
          const key = (row, n) => row.cells[n].dataset.sort ?? row.cells[n].textContent;
          const value = text => text === "-inf" ? -Infinity : text === "inf" ? Infinity : text === "" ? NaN : Number(text);
          for (const table of document.querySelectorAll("table.sortable")) {
            const rows = table.tBodies[0].rows, before = rows.length;
            Array.from(table.tHead.rows[0].cells).forEach((th, n) => {
              for (const direction of ["ascending", "descending"]) {
                th.querySelector("button").click();
                if (th.getAttribute("aria-sort") !== direction) wrong.push(["direction", th.textContent]);
                const found = Array.from(rows, row => key(row, n)).map(value);
                if (found.some(isNaN)) continue;
                for (let i = 1; i < found.length; i++)
                  if (direction === "ascending" ? found[i - 1] > found[i] : found[i - 1] < found[i]) wrong.push([direction, th.textContent]);
              }
            });
            if (rows.length !== before) wrong.push(["rows", table.parentNode.ariaLabel]);
          }
          return wrong;
        }"""
    )
    assert wrong == []


def test_numbers_sort_by_their_value_and_what_is_missing_below_all(tmp_path: Path, page: Any) -> None:
    keyed = [("∞", float("inf")), ("+2", 2.0), ("none", float("nan")), ("−3 [−4, −2]", -3.0), ("12", 12.0)]
    plain = ["+0.1", "—", "−0.5", "0.3", "−0.25"]
    rows = tuple((Cell(text), Cell(shown, key)) for text, (shown, key) in zip(plain, keyed, strict=True))
    table = Table("Numbers", ("plain", "keyed"), rows)
    write_report(tmp_path, Report("r", "", None, "", (), (), (Section("s", "Section", tables=(table,)),)))
    visit(page, tmp_path / "index.html")
    for n, ascending in enumerate((["—", "−0.5", "−0.25", "+0.1", "0.3"], ["none", "−3 [−4, −2]", "+2", "12", "∞"])):
        for wanted in (ascending, ascending[::-1]):
            page.locator("#s thead button").nth(n).click()
            found = [text.strip() for text in page.locator(f"#s tbody td:nth-child({n + 1})").all_inner_texts()]
            assert found == wanted
    assert page.locator("#s thead th").nth(1).get_attribute("aria-sort") == "descending"


def test_every_long_table_filters_by_words_and_comes_back_whole(report: Path, page: Any) -> None:
    visit(page, report / "index.html")
    counts = page.evaluate(
        """() => Array.from(document.querySelectorAll("table.sortable")).filter(table => table.tBodies[0].rows.length >= 8).map(table => {
          const box = table.closest(".scroll").previousElementSibling.querySelector("input"), rows = Array.from(table.tBodies[0].rows);
          const shown = () => rows.filter(row => !row.hidden).length;
          const type = words => { box.value = words; box.dispatchEvent(new Event("input")); return shown(); };
          const word = rows[0].cells[0].textContent;
          return [rows.length, type(word), type("no such words"), type("")];
        })"""
    )
    assert len(counts) > 10
    for rows, some, none, all_again in counts:
        assert 0 < some <= rows
        assert (none, all_again) == (0, rows)


def test_a_table_is_filtered_and_sorted_from_the_keyboard(report: Path, page: Any) -> None:
    visit(page, report / "index.html")
    page.locator("#tradeoff details").evaluate_all("all => all.forEach(one => one.open = true)")
    box = page.locator("#tradeoff .filter input")
    box.focus()
    page.keyboard.type("PRE batchtopk")
    shown = page.locator("#tradeoff tbody tr:visible")
    assert page.locator("#tradeoff .filter [role=status]").inner_text() == f"{shown.count()} of 96 rows"
    assert all("PRE" in text and "batchtopk" in text for text in shown.all_inner_texts())
    page.locator("#tradeoff thead th button").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#tradeoff thead th").first.get_attribute("aria-sort") == "ascending"


def test_print_has_no_controls_and_says_what_it_leaves_out(report: Path, page: Any) -> None:
    visit(page, report / "index.html")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 at 96 dots per inch between margins of 10 mm
    assert not page.locator("nav").is_visible()
    assert page.locator(".filter:visible").count() == 0
    assert page.evaluate("getComputedStyle(document.querySelector('details:not([open]) > summary'), '::after').content").startswith(
        '" (left out of print'
    )
    assert page.evaluate("document.querySelector('.scroll').scrollHeight - document.querySelector('.scroll').clientHeight") <= 1
    assert page.pdf()[:4] == b"%PDF"


def test_headings_go_down_one_level_at_a_time(report: Path, page: Any) -> None:
    for file in (report / "index.html", one_feature_page(report)):
        visit(page, file)
        levels = page.locator("h1, h2, h3, h4").evaluate_all("all => all.map(one => Number(one.tagName[1]))")
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))


def test_a_report_of_a_table_from_elsewhere_has_only_what_the_table_allows(tmp_path: Path, page: Any) -> None:
    frames = synthetic_study.frames()
    bare = {name: getattr(frames.tables, name).iloc[:0] for name in ("document_sums", "baseline_sums", "feature_stats")}
    tables = StudyTables(frames.tables.saes, frames.tables.sae_metrics, **bare)
    left_out = ("generalisation", "health", "root_causes", "proposals", "lineage", "subject", "text", "activation_statistics", "massive_tokens")
    build_report(
        tmp_path,
        synthetic_study.study(),
        synthetic_study.frames(tables=tables, matching=None, traces=None, training=None, diverged=None, **dict.fromkeys(left_out)),
    )
    complaints, _ = visit(page, tmp_path / "index.html")
    sections = page.locator("main > section").evaluate_all("all => all.map(one => one.id)")
    assert sections == [
        "summary", "matrix", "expansion", "budget", "architecture", "seed", "layer", "tradeoff", "finding", "recommendations", "limitations",
    ]  # fmt: skip
    assert complaints == []
    assert not (tmp_path / "features").exists()
