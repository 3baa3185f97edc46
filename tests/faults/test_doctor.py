"""`sae-pipeline doctor`: a sound home is called sound, each kind of damage is found and named, and mending loses nothing."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from sae_pipeline.cli import app
from sae_pipeline.store import Home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with two small artifacts and a warehouse."""
    monkeypatch.setenv("SAE_HOME", str(tmp_path / "home"))
    home = Home.from_environment()
    for name in ("a", "b"):
        with home.store.draft("toy", name, {"of": name}) as draft:
            (draft.path / "data.bin").write_bytes(name.encode() * 1_000)
            draft.publish({})
    import duckdb

    home.study("toy").mkdir(parents=True)
    with duckdb.connect(str(home.warehouse("toy"))) as connection:
        connection.execute("CREATE TABLE contents (stage VARCHAR, fingerprint VARCHAR)")
    return home


def examined(*options: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Exit code, and what was found by check."""
    result = CliRunner().invoke(app, ["doctor", "--json", *options])
    answer = json.loads(result.stdout.strip().splitlines()[-1])
    found: dict[str, list[dict[str, Any]]] = {}
    for row in answer["checks"]:
        found.setdefault(row["check"], []).append(row)
    assert answer["healthy"] == (result.exit_code == 0)
    return result.exit_code, found


def unhealthy(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    return [row["found"] for rows in found.values() for row in rows if not row["healthy"]]


def test_a_sound_home_is_called_sound(home: Home) -> None:
    code, found = examined()
    assert (code, unhealthy(found)) == (0, [])
    assert found["store"][-1]["found"].startswith("2 artifacts")
    assert {"installation", "kernels", "devices", "disk", "store", "warehouse"} <= set(found)


def test_a_home_that_does_not_exist_yet_is_no_illness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAE_HOME", str(tmp_path / "nothing" / "here"))
    assert examined()[0] == 0
    assert not (tmp_path / "nothing").exists()


def test_one_changed_byte_is_found_and_named_and_nothing_is_moved(home: Home) -> None:
    file = home.store.folder("toy", "a") / "data.bin"
    file.write_bytes(b"x" + file.read_bytes()[1:])
    code, found = examined()
    assert code == 1
    assert unhealthy(found) == ["toy a is damaged: data.bin: expected the bytes that were written, found others (the checksum differs)"]
    assert file.exists()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "data.bin").unlink(), "data.bin is missing"),
        (lambda folder: (folder / "data.bin").write_bytes(b"short"), "expected 1000 bytes, found 5"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
    ],
)
def test_repair_moves_damage_to_quarantine_and_leaves_the_rest(home: Home, damage: Any, sentence: str) -> None:
    damage(home.store.folder("toy", "a"))
    assert any(sentence in found for found in unhealthy(examined()[1]))
    assert examined("--repair")[0] == 0
    assert not home.store.folder("toy", "a").exists()
    assert len(list((home.store.root / ".quarantine").iterdir())) == 1
    assert home.store.find("toy", "b") is not None
    assert examined()[0] == 0


def test_a_damaged_event_log_is_found(home: Home) -> None:
    log = home.dagster / "history" / "runs.db"
    log.parent.mkdir(parents=True)
    with sqlite3.connect(log) as connection:
        connection.execute("CREATE TABLE runs (text)")
        connection.executemany("INSERT INTO runs VALUES (?)", [("x" * 500,)] * 200)
    connection.close()
    log.write_bytes(log.read_bytes()[:5_000] + b"\x00" * 3_000)
    code, found = examined()
    assert code == 1
    assert f"{log} is damaged" in unhealthy(found)


def test_a_database_whose_writer_was_killed_is_called_sound(home: Home) -> None:
    log = home.dagster / "history" / "runs" / "of_a_run.db"
    log.parent.mkdir(parents=True)
    write = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('CREATE TABLE runs (text)'); c.commit(); c.execute('PRAGMA cache_size = 1'); "
        "c.executemany('INSERT INTO runs VALUES (?)', [('x' * 900,)] * 400); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", write, str(log)], check=False)
    assert log.with_name("of_a_run.db-journal").exists()
    before = log.read_bytes()
    code, found = examined()
    assert (code, unhealthy(found)) == (0, [])
    assert log.read_bytes() == before


def test_a_warehouse_that_cannot_be_opened_is_removed_by_repair(home: Home) -> None:
    home.warehouse("toy").write_bytes(b"no database")
    code, found = examined()
    assert (code, len(unhealthy(found))) == (1, 1)
    assert "sae-pipeline report STUDY" in found["warehouse"][0]["remedy"]
    assert examined("--repair")[0] == 0
    assert not home.warehouse("toy").exists()


def test_a_record_that_is_none_is_hidden_by_repair_and_nothing_else(home: Home) -> None:
    for name in ("sound", "torn", "cut"):
        folder = home.history("toy") / name
        folder.mkdir(parents=True)
        (folder / "record.json").write_text('{"recorded": "2026-01-01", "window": 0, "text": "t", "saes": {}}')
        for table in ("metrics.parquet", "documents.parquet"):
            pd.DataFrame({"sae_id": ["a", "b"]}).to_parquet(folder / table)
    (home.history("toy") / "torn" / "record.json").write_text('{"recorded": ')
    os.truncate(home.history("toy") / "cut" / "metrics.parquet", 50)
    code, found = examined()
    places = [f"{home.history('toy')}/{place}: expected the record of an evaluation" for place in ("cut/metrics.parquet", "torn/record.json")]
    assert code == 1
    assert [told.partition(", found")[0] for told in unhealthy(found)] == places
    assert examined("--repair")[0] == examined()[0] == 0
    assert sorted(path.name for path in home.history("toy").iterdir()) == [".cut-damaged", ".torn-damaged", "sound"]


def test_locks_of_killed_processes_are_harmless_and_removed_by_repair(home: Home) -> None:
    lock = home.locks / "launcher-of-a-dead-one.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    code, found = examined()
    assert code == 0
    assert found["locks"][0]["found"].startswith("1 lock files")
    examined("--repair")
    assert not lock.exists()


def test_a_folder_that_cannot_be_written_is_found(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def refuse(path: Path, data: bytes) -> int:
        if path.name == ".doctor":
            raise PermissionError(13, "Permission denied", str(path))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", refuse)
    code, found = examined()
    assert code == 1
    assert "cannot be written (Permission denied)" in found["disk"][0]["found"]


def test_too_little_space_is_found(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_pipeline.launcher.doctor.LITTLE_SPACE", 1e18)
    assert any("GB are free" in found for found in unhealthy(examined()[1]))


def test_a_package_in_a_version_that_is_not_accepted_is_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_pipeline.launcher.doctor.requires", lambda name: ["numpy<1", "no-such-package>=2", "never; extra == 'dev'"])
    (found,) = unhealthy(examined()[1])
    assert "instead of <1" in found
    assert "no-such-package is missing" in found


def test_every_unhealthy_finding_says_what_to_do(home: Home) -> None:
    home.warehouse("toy").write_bytes(b"no database")
    (home.store.folder("toy", "a") / "data.bin").unlink()
    found = examined()[1]
    assert all(row["remedy"] for rows in found.values() for row in rows if not row["healthy"])


def test_the_printed_form_says_the_same(home: Home) -> None:
    (home.store.folder("toy", "a") / "data.bin").unlink()
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "store: not ok: toy a is damaged: data.bin is missing; the next `sae-pipeline run` computes it again" in result.stdout
