"""Copies kept of a warehouse: in the order they were made, what makes a new one, and what becomes of one that is damaged."""

from __future__ import annotations

import itertools
import logging
import os
import time
from pathlib import Path

import duckdb
import pytest
from small_study import SmallStudy

from sae_pipeline.errors import BadInput, StorageError
from sae_pipeline.launcher.doctor import examine
from sae_pipeline.stages import comparison, versions
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import load_study


@pytest.fixture
def ctx(small_study: SmallStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyContext:
    """A study with a warehouse of two stages; that two such cannot be compared is no matter here."""
    monkeypatch.setenv("SAE_HOME", str(tmp_path / "home"))
    opened = StudyContext.open(load_study(small_study.write()))
    opened.home.study(opened.study.name).mkdir(parents=True)
    with duckdb.connect(str(opened.home.warehouse(opened.study.name))) as connection:
        connection.execute("CREATE TABLE contents (stage VARCHAR, fingerprint VARCHAR)")
    add(opened, "tables")
    add(opened, "findings")
    return opened


def add(ctx: StudyContext, stage: str) -> None:
    """The warehouse holds one more artifact."""
    with duckdb.connect(str(ctx.home.warehouse(ctx.study.name))) as connection:
        connection.execute("INSERT INTO contents VALUES (?, uuid()::VARCHAR)", [stage])


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Names of the copies that the study was compared with, each with that of the page's folder."""
    asked: list[tuple[str, str]] = []

    def compare(before: str, after: str, to: Path) -> None:
        asked.append((Path(before).name, to.name))
        raise BadInput("nothing to compare")

    monkeypatch.setattr(comparison, "compare", compare)
    return asked


def test_copies_of_one_second_are_in_the_order_they_were_made(
    ctx: StudyContext, compared: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = time.gmtime(0)
    monkeypatch.setattr(time, "gmtime", lambda *_: moment)
    made = []
    for _ in range(12):
        add(ctx, "tables")
        made.append(versions.compare_with_last(ctx).copy.name)
    names = ["1970-01-01T000000Z.duckdb", *(f"1970-01-01T000000Z-{n}.duckdb" for n in range(1, 12))]
    assert made == [copy.name for copy in versions.copies(ctx)] == names
    assert [before for before, _ in compared] == names[:-1]
    assert len({folder for _, folder in compared}) == 11, "no page lies on another"


@pytest.mark.parametrize(("stage", "new"), [("history", False), ("foreign_tables", False), ("text", True), ("match_tables", True)])
def test_a_version_is_kept_when_the_studys_own_results_change(ctx: StudyContext, compared: list[tuple[str, str]], stage: str, new: bool) -> None:
    assert versions.compare_with_last(ctx).new
    add(ctx, stage)
    assert versions.compare_with_last(ctx).new == new
    assert len(compared) == new


def test_a_damaged_copy_is_left_out_with_a_warning_that_names_it(
    ctx: StudyContext, compared: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(time, "strftime", lambda *_: f"2026-01-01T00000{next(seconds)}Z")
    first = versions.compare_with_last(ctx).copy
    add(ctx, "tables")
    second = versions.compare_with_last(ctx).copy
    os.truncate(second, 5_000)
    with caplog.at_level(logging.WARNING, logger="sae_pipeline"):
        third = versions.compare_with_last(ctx)
    assert third.new
    assert [before for before, _ in compared] == [first.name, first.name]
    assert [str(second) in record.getMessage() for record in caplog.records] == [True]

    (told,) = [told for told in examine(ctx.home) if told.check == "warehouse" and not told.healthy]
    assert str(second) in told.found
    assert told.mend is not None
    told.mend()
    assert versions.copies(ctx) == [first, third.copy]
    assert second.with_name(f".{second.name}-damaged").stat().st_size == 5_000


def test_a_warehouse_that_cannot_be_read_is_one_sentence(ctx: StudyContext) -> None:
    warehouse = ctx.home.warehouse(ctx.study.name)
    warehouse.write_bytes(b"no database")
    with pytest.raises(StorageError, match=r"expected the study's warehouse.*sae-pipeline report STUDY") as refused:
        versions.compare_with_last(ctx)
    assert str(warehouse) in str(refused.value)
    assert "\n" not in str(refused.value)
