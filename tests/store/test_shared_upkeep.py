"""Cleaning and examining a store that machines share, on the small study: what is reached, alive or recent stays, damage is named and mended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shared_machines import shared
from small_study import SmallStudy
from typer.testing import CliRunner

from sae_pipeline.cli import app
from sae_pipeline.errors import BadInput, SharedStoreError
from sae_pipeline.stages import cleaning, subject
from sae_pipeline.stages.cleaning import reclaim_shared
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.stages.sharing import upload_finished
from sae_pipeline.store.shared import manifest_key

UPLOAD = "0" * 32
"""Name of an upload that no manifest names."""


@pytest.fixture
def patient(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds in which a living holder is never given up, however slow the machine."""
    monkeypatch.setenv("SAE_LEASE_SECONDS", "8")


def command(*arguments: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    return result.exit_code, json.loads(result.stdout.strip().splitlines()[-1])


def on_the_store(*options: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit code of the doctor, and what it said of the shared store."""
    code, answer = command("doctor", *options)
    return code, [row for row in answer["checks"] if row["check"] == "shared store"]


class TestCleaning:
    def test_what_no_study_reaches_goes_when_it_is_older_than_a_day(self, ctx: StudyContext, monkeypatch: pytest.MonkeyPatch) -> None:
        assert reclaim_shared([ctx]) == []
        monkeypatch.setattr(cleaning, "NEW_SECONDS", -60.0)
        [would_go] = reclaim_shared([ctx], dry_run=True)
        assert (would_go.stage, would_go.fingerprint, would_go.shared) == ("toy", "other", True)
        assert would_go.bytes > 1_000
        assert ("toy", "other") in shared(ctx).listing()
        assert reclaim_shared([ctx]) == [would_go]
        assert {stage for stage, _ in shared(ctx).listing()} == {subject.STAGE}
        assert not [key for key in shared(ctx).remote.listing("") if "/toy/" in key]

    def test_recent_things_go_when_it_is_asked_for(self, ctx: StudyContext, small_study: SmallStudy) -> None:
        code, answer = command("gc", str(small_study.path), "--shared", "--recent", "--dry-run")
        assert (code, [item["fingerprint"] for item in answer["removed"] if item["shared"]]) == (0, ["other"])
        assert ("toy", "other") in shared(ctx).listing()

    def test_the_home_alone_is_cleaned_without_the_option(self, ctx: StudyContext, small_study: SmallStudy) -> None:
        code, answer = command("gc", str(small_study.path))
        assert (code, [(item["fingerprint"], item["shared"]) for item in answer["removed"]]) == (0, [("other", False)])
        assert ("toy", "other") in shared(ctx).listing()
        assert not ctx.store.folder("toy", "other").exists()

    @pytest.mark.usefixtures("patient")
    def test_leftovers_of_uploads_go_and_what_a_living_machine_makes_stays(self, ctx: StudyContext, tmp_path: Path) -> None:
        (tmp_path / "part").write_bytes(b"part")
        for fingerprint in ("dead", "alive", "other"):
            shared(ctx).remote.upload({f"files/toy/{fingerprint}.{UPLOAD}/data.bin": tmp_path / "part"})
        shared(ctx).remote.create("leases/toy/dead.1", b"nobody")
        with shared(ctx).leases.hold("toy", "alive"), shared(ctx).leases.hold("toy", "other"):
            gone = reclaim_shared([ctx], recent=True)
            assert {(item.stage, item.fingerprint) for item in gone if item.stage != "heartbeats"} == {("toy", "dead"), ("leases", "dead.1")}
            left = shared(ctx).remote.listing("")
            assert {f"files/toy/alive.{UPLOAD}/data.bin", "leases/toy/alive.1", "manifests/toy/other.json"} <= left.keys()
        gone = reclaim_shared([ctx], recent=True)
        assert {(item.stage, item.fingerprint) for item in gone} == {("toy", "alive"), ("toy", "other")}

    def test_an_upload_that_lost_goes_and_the_one_that_is_named_stays(self, ctx: StudyContext, tmp_path: Path) -> None:
        fingerprint = subject.fingerprint(ctx)
        (tmp_path / "part").write_bytes(b"part")
        shared(ctx).remote.upload({f"files/{subject.STAGE}/{fingerprint}.{UPLOAD}/part": tmp_path / "part"})
        gone = {item.fingerprint: item.bytes for item in reclaim_shared([ctx], recent=True)}
        assert gone[fingerprint] == 4
        found = shared(ctx).ask(subject.STAGE, fingerprint)
        assert found is not None
        assert shared(ctx).is_complete(found)

    def test_what_a_killed_process_was_writing_goes_and_files_of_others_stay(self, ctx: StudyContext, folder: Path) -> None:
        ours = [f"heartbeats/{'1' * 32}", f"probes/{'2' * 32}", f"manifests/toy/.{'3' * 32}", f"leases/toy/.{'4' * 32}"]
        theirs = [
            *("notes.txt", "lab/results/table.csv", "files/x", "files/papers/draft.pdf", "files/papers/draft.v2/figure.png", "manifests/list.json"),
            *("manifests/toy/read me.txt", "leases/x", "leases/x.1", "leases/a/b/c.1", "heartbeats/monitor.log", "probes/rover/1.fits"),
        ]
        for key in (*ours, *theirs):
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (folder / key).write_bytes(b"x")
        gone = {item.fingerprint for item in reclaim_shared([ctx], recent=True)}
        assert gone == {"other", *(Path(key).name for key in ours)}
        assert [key for key in theirs if not (folder / key).exists()] == []
        assert [key for key in ours if (folder / key).exists()] == []

    def test_it_needs_a_store_that_is_shared(self, small_study: SmallStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SAE_HOME", str(tmp_path / "a"))
        result = CliRunner().invoke(app, ["gc", small_study.write(), "--shared"])
        assert isinstance(result.exception, BadInput)
        assert "expected SAE_STORE to name the store that machines share" in str(result.exception)


class TestTheDoctor:
    def test_a_sound_store_is_called_sound(self, ctx: StudyContext) -> None:
        code, rows = on_the_store()
        assert code == 0
        assert "of two machines that create the same file one is refused" in rows[0]["found"]
        assert rows[1]["found"].startswith("2 artifacts with every file at its size")

    def test_what_is_in_the_place_of_an_artifact_or_a_remembered_manifest_is_told_and_mended(
        self, ctx: StudyContext, small_study: SmallStudy
    ) -> None:
        ctx.store.folder("toy", "stray").write_text("no folder")
        remembered = ctx.store.remembered / "toy" / "gone.json"
        remembered.parent.mkdir(parents=True, exist_ok=True)
        remembered.write_text("[]")
        code, answer = command("doctor")
        assert code == 1
        told = [row["found"] for row in answer["checks"] if row["check"] == "store"]
        assert "toy stray is damaged: expected a folder, found a file" in told
        assert "1 remembered manifests of the shared store that cannot be read" in told
        assert command("doctor", "--repair")[0] == command("doctor")[0] == 0
        assert not ctx.store.folder("toy", "stray").exists()
        assert not remembered.exists()
        code, answer = command("gc", str(small_study.path))
        assert (code, [item["stage"] for item in answer["removed"]]) == (0, ["toy", "quarantine"])

    def test_without_one_it_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SAE_HOME", str(tmp_path / "a"))
        code, [row] = on_the_store()
        assert (code, row["found"]) == (0, "none: SAE_STORE is not set, and this home is used alone")

    def test_one_that_is_away_is_an_illness(self, ctx: StudyContext, folder: Path) -> None:
        folder.rename(folder.with_name("elsewhere"))
        code, [row] = on_the_store()
        assert code == 1
        assert "no such folder (is it mounted?)" in row["found"]

    def test_a_manifest_that_cannot_be_read_stays_until_repair_is_asked_for(self, ctx: StudyContext, folder: Path) -> None:
        manifest = folder / manifest_key("toy", "other")
        manifest.write_text("{")
        for _ in range(2):
            code, rows = on_the_store()
            assert code == 1
            assert "the manifest of toy other cannot be read" in [row["found"] for row in rows]
            assert manifest.exists()
        assert on_the_store("--repair")[0] == 0
        assert not manifest.exists()

    @pytest.mark.parametrize("damage", ["removed", "truncated"])
    def test_an_incomplete_artifact_is_named_and_mended_from_a_home_that_has_it(self, ctx: StudyContext, damage: str) -> None:
        found = shared(ctx).ask(subject.STAGE, subject.fingerprint(ctx))
        assert found is not None
        name, key = next(iter(found.keys.items()))
        if damage == "removed":
            shared(ctx).remote.remove([key])
        else:
            shared(ctx).remote.write(key, b"")
        code, rows = on_the_store()
        [ill] = [row for row in rows if not row["healthy"]]
        assert code == 1
        assert f"{found.fingerprint} lacks {name}" in ill["found"]
        assert "uploads this home’s copy" in ill["remedy"]
        assert on_the_store("--repair")[0] == 0
        assert (found.stage, found.fingerprint) not in shared(ctx).listing()
        upload_finished(ctx)
        assert on_the_store()[0] == 0
        assert (found.stage, found.fingerprint) in shared(ctx).listing()

    def test_a_homes_copy_is_looked_at_and_not_moved(self, ctx: StudyContext) -> None:
        found = shared(ctx).ask("toy", "other")
        assert found is not None
        shared(ctx).remote.remove(found.keys.values())
        file = ctx.store.folder("toy", "other") / "data.bin"
        file.write_bytes(b"short")
        [ill] = [row for row in on_the_store()[1] if not row["healthy"]]
        assert "toy other lacks data.bin" in ill["found"]
        assert "computes it again" in ill["remedy"]
        assert file.read_bytes() == b"short"
        assert not list(ctx.store.root.glob(".quarantine/*"))

    @pytest.mark.usefixtures("patient")
    def test_leases_of_the_dead_are_told_from_those_of_the_living_and_removed(self, ctx: StudyContext) -> None:
        shared(ctx).remote.create("leases/toy/dead.1", b"nobody")
        with shared(ctx).leases.hold("toy", "alive"):
            found = " ".join(row["found"] for row in on_the_store("--repair")[1])
            assert "1 artifacts are being made by machines that are alive" in found
            assert "1 leases of machines that are gone" in found
            assert list(shared(ctx).remote.listing("leases")) == ["leases/toy/alive.1"]


def test_a_command_refuses_a_store_that_is_away_in_one_sentence(small_study: SmallStudy, folder: Path) -> None:
    folder.rmdir()
    result = CliRunner().invoke(app, ["plan", small_study.write()])
    assert isinstance(result.exception, SharedStoreError)
    assert "no such folder (is it mounted?)" in str(result.exception)
