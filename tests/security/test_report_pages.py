"""Pages show all text as text, in a real browser: nothing in it runs, and nothing asks a server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import synthetic_study
from browser import chromium, chromium_or_skip
from made_up_results import results, written
from typer.testing import CliRunner

from sae_pipeline.cli import app
from sae_pipeline.reports.build import build_report

HOSTILE = (
    "</script><script>document.title='ran'</script><img src=https://example.org/x.png onerror=alert(1)>",
    "\"><svg onload=alert(1)>' onmouseover='alert(1)",
    "{{ 7*7 }}{% raw %}${7*7}",
    "$\\frac{ $ and $x$",
    "\x1b[31mred\x1b[0m&lt;b&gt;",
    "[link](javascript:alert(1)) <javascript:alert(1)>",
    '=HYPERLINK("https://example.org")',
)
ALL = " ".join(HOSTILE)


@pytest.fixture(scope="module")
def study_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a study whose description, findings, documents and tokens are hostile."""
    folder = tmp_path_factory.mktemp("study")
    frames = synthetic_study.frames()
    traces = dict(frames.traces or {})
    traces["context_text"] = traces["context_text"].assign(before=ALL, text=HOSTILE[0], after=ALL)
    frames = replace(frames, traces=traces, findings=frames.findings.assign(note=ALL))
    build_report(folder, synthetic_study.study(description=ALL), frames)
    return folder


@pytest.fixture(scope="module")
def table_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of somebody's table whose mixes and evaluation sets have hostile names."""
    folder = tmp_path_factory.mktemp("table")
    names = {"sae_train_dataset": dict(zip(("C4", "PRE", "EQ", "INS", "lmsys"), HOSTILE, strict=False)), "eval_dataset": {"c4-sample": HOSTILE[6]}}
    table = written(folder, pd.DataFrame(results().query("layer == 6").replace(names)))
    result = CliRunner().invoke(app, ["report", "--results", str(table), "--to", str(folder / "report")])
    assert result.exit_code == 0, result.output
    return folder / "report"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium_or_skip()
    with chromium(tmp_path_factory.mktemp("profile")) as context:
        yield context


def opened(browser: Any, file: Path) -> tuple[Any, list[str]]:
    """A page with everything unfolded and hovered over, and what it did that it should not: dialogs, errors, requests."""
    page, deeds = browser.new_page(), []
    page.on("dialog", lambda dialog: (deeds.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("pageerror", lambda error: deeds.append(f"error {error}"))
    page.on("console", lambda message: deeds.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else deeds.append(request.url))
    page.goto(file.as_uri())
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    page.evaluate("document.querySelectorAll('*').forEach(one => one.dispatchEvent(new MouseEvent('mouseover', {bubbles: true})))")
    return page, deeds


def assert_harmless(page: Any, deeds: list[str], *shown: str) -> None:
    text = " ".join(page.locator("body").inner_text().split())
    assert deeds == []
    assert page.title() != "ran"
    assert page.locator("script").count() == 1
    assert page.locator("svg, iframe, object, embed, base, form, link").count() == 0
    assert page.evaluate("[...document.querySelectorAll('*')].every(one => one.getAttributeNames().every(name => !name.startsWith('on')))")
    assert page.evaluate("[...document.links].every(one => one.protocol === 'file:')")
    for each in shown:
        assert " ".join(each.split()) in text, each
    page.close()


@pytest.mark.ui
def test_a_study_of_hostile_text_is_shown_and_never_run(study_page: Path, browser: Any) -> None:
    assert_harmless(*opened(browser, study_page / "index.html"), *(text for text in HOSTILE if "\x1b" not in text))
    features = sorted((study_page / "features").glob("*.html"))
    assert_harmless(*opened(browser, features[0]), HOSTILE[0], HOSTILE[2], HOSTILE[3])


@pytest.mark.ui
def test_a_table_of_hostile_names_is_drawn_shown_and_never_run(table_page: Path, browser: Any) -> None:
    assert_harmless(*opened(browser, table_page / "index.html"), *HOSTILE[:4])
    assert len(list((table_page / "figures").glob("*.png"))) > 2


@pytest.mark.ui
def test_a_script_that_got_into_a_page_all_the_same_is_not_run_and_tables_still_sort(study_page: Path, browser: Any, tmp_path: Path) -> None:
    page, deeds = opened(browser, study_page / "index.html")
    table = page.locator("table.sortable").first
    table.locator("th button").first.click()
    assert table.locator("th").first.get_attribute("aria-sort") in ("ascending", "descending")
    assert deeds == []
    page.close()
    broken = (study_page / "index.html").read_text(encoding="utf-8").replace("<body>", "<body><script>document.title='ran'</script><i onclick='x'>")
    (tmp_path / "index.html").write_text(broken, encoding="utf-8")
    page, deeds = opened(browser, tmp_path / "index.html")
    assert page.title() != "ran"
    assert any("Content Security Policy" in deed for deed in deeds)
    page.close()


def test_a_figures_data_holds_no_formula(table_page: Path) -> None:
    cells = [
        cell for file in (table_page / "figures").glob("*.csv")
        for row in [[str(name) for name in pd.read_csv(file).columns], *pd.read_csv(file, dtype=str).fillna("").to_numpy().tolist()] for cell in row
    ]  # fmt: skip
    assert f"'{HOSTILE[6]}" in cells
    assert not [cell for cell in cells if cell.startswith("=")]
    assert any(cell.lstrip("-").replace(".", "").isdigit() for cell in cells)


def test_the_markdown_holds_no_markup_of_theirs(study_page: Path, table_page: Path) -> None:
    for folder in (study_page, table_page):
        text = (folder / "report.md").read_text(encoding="utf-8")
        assert "<script" not in text
        assert "<img" not in text
        assert "](javascript" not in text.replace("\\](javascript", "")
