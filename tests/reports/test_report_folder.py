"""Claims about the folder of a report: an earlier report gives way to a later one, and nothing else does."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from sae_pipeline.errors import BadInput, StorageError
from sae_pipeline.reports.blocks import FeaturePage, Plot, Report, Section, Table
from sae_pipeline.reports.build import write_report
from sae_pipeline.reports.folder import MARK, PAGE, report_folder


def write(folder: Path, name: str) -> None:
    """A report with everything that one can have: a figure, a page of an SAE, and findings."""
    plot = Plot("figure", "A figure", "How to read it.", pd.DataFrame({"estimate": [0.5]}), Figure)
    page = FeaturePage("PRE.L01", (), Table("Latents", (), ()), ())
    report = Report(name, "", None, "", (), (), (Section("s", "Section", plots=(plot,)),), pages=(page,))
    with report_folder(folder) as fresh:
        write_report(fresh, report, findings=pd.DataFrame({"id": ["S0-13"]}))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_whole_earlier_report_is_replaced_with_its_stale_figures(tmp_path: Path) -> None:
    write(tmp_path / "report", "earlier")
    (tmp_path / "report" / "figures" / "old.png").write_bytes(b"")
    write(tmp_path / "report", "later")
    assert set(contents(tmp_path / "report")) == {
        "index.html", "report.md", "findings.json", "figures/figure.png", "figures/figure.csv", "features/PRE.L01.html",
    }  # fmt: skip
    assert "later" in (tmp_path / "report" / PAGE).read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_report_from_before_there_was_a_mark_is_known_by_what_it_forbids_itself(tmp_path: Path) -> None:
    write(tmp_path / "report", "earlier")
    page = tmp_path / "report" / PAGE
    page.write_text(page.read_text().replace(MARK, ""))
    write(tmp_path / "report", "later")
    assert "later" in page.read_text()


@pytest.mark.parametrize("foreign", ["old.png", "thesis.txt", ".git/config", "figures/mine.docx", "figures/raw/mine.png", "proposed.yaml"])
def test_a_folder_with_anything_that_no_report_writes_is_left_as_it_is(foreign: str, tmp_path: Path) -> None:
    write(tmp_path / "report", "earlier")
    (tmp_path / "report" / foreign).parent.mkdir(exist_ok=True)
    (tmp_path / "report" / foreign).write_text("mine")
    before = contents(tmp_path / "report")
    with pytest.raises(BadInput, match=r"an earlier report and nothing else, found "):
        write(tmp_path / "report", "later")
    assert contents(tmp_path / "report") == before


def test_somebodys_own_page_is_no_report(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / PAGE).write_text("<!doctype html><title>My site</title>")
    with pytest.raises(BadInput, match=r"found an index.html that no report wrote; choose another with --to"):
        write(tmp_path / "site", "report")
    assert list(contents(tmp_path / "site")) == [PAGE]


def test_a_file_that_comes_while_the_report_is_made_is_kept(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    with pytest.raises(BadInput, match="found other files"), report_folder(tmp_path / "report"):
        (tmp_path / "report" / "thesis.txt").write_text("mine")
    assert list(contents(tmp_path)) == ["report/thesis.txt"]


def test_a_link_to_a_folder_leads_to_the_report(tmp_path: Path) -> None:
    write(tmp_path / "report", "earlier")
    (tmp_path / "latest").symlink_to("report")
    write(tmp_path / "latest", "later")
    assert (tmp_path / "latest").is_symlink()
    assert "later" in (tmp_path / "report" / PAGE).read_text()


@pytest.mark.parametrize("to", [".", ".."])
def test_the_folder_that_the_command_runs_in_is_refused_in_one_sentence(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(BadInput, match=r"found the one this command runs in; name a folder within it with --to$"):
        write(Path(to), "report")
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


def test_what_goes_wrong_while_the_report_is_made_keeps_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-table"), report_folder(tmp_path / "report"):
        (tmp_path / "no-such-table.csv").read_text()
    assert not any(tmp_path.iterdir())


def test_a_full_disk_and_a_file_in_the_way_are_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"found the disk full; free space"), report_folder(tmp_path / "report"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"report: expected a folder that can be written, found: (Not a directory|File exists); choose another"):
        write(tmp_path / "file" / "report", "report")
    with pytest.raises(BadInput, match="found a file; choose another"):
        write(tmp_path / "file", "report")
