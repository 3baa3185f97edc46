"""What a home had finished goes to the store that machines share; what lies there already, otherwise, takes its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from shared_machines import shared
from small_study import SmallStudy

from sae_pipeline.stages import subject
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.stages.sharing import upload_finished
from sae_pipeline.store import Home, Store
from sae_pipeline.store.remote import Remote
from sae_pipeline.store.shared import SharedStore, _opened
from sae_pipeline.study import load_study


def test_a_home_that_had_finished_work_before_it_shares_it_with_the_next_run(
    small_study: SmallStudy, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = (tmp_path / "shared").as_uri()
    monkeypatch.delenv("SAE_STORE")
    study = load_study(small_study.write())
    alone = StudyContext.open(study)
    subject.prepare(alone)
    monkeypatch.setenv("SAE_STORE", address)
    ctx = StudyContext.open(study)
    upload_finished(ctx)
    other = StudyContext.open(study, Home(tmp_path / "b"))
    found = subject.find(other)
    assert found is not None
    assert found.record == subject.need(alone).record


def test_an_upload_of_finished_work_is_kept_from_cleaning_while_it_lasts(ctx: StudyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint = subject.fingerprint(ctx)
    found = shared(ctx).ask(subject.STAGE, fingerprint)
    assert found is not None
    shared(ctx).condemn(found)
    upload, held = Remote.upload, set()

    def watched(remote: Remote, files: dict[str, Path]) -> None:
        upload(remote, files)
        held.update(remote.listing("leases"))

    monkeypatch.setattr(Remote, "upload", watched)
    upload_finished(ctx)
    assert held == {f"leases/{subject.STAGE}/{fingerprint}.1"}
    assert (subject.STAGE, fingerprint) in shared(ctx).listing()
    assert not shared(ctx).remote.listing("leases")


@pytest.mark.parametrize("quarantines", [True, False])
def test_damaged_work_is_not_spread_and_stays_where_nothing_follows(ctx: StudyContext, quarantines: bool) -> None:
    fingerprint = subject.fingerprint(ctx)
    found = shared(ctx).ask(subject.STAGE, fingerprint)
    assert found is not None
    shared(ctx).condemn(found)
    file = next(path for path in ctx.store.folder(subject.STAGE, fingerprint).iterdir() if path.name != "manifest.json")
    file.write_bytes(bytes(reversed(file.read_bytes())))
    upload_finished(ctx, quarantines=quarantines)
    assert (subject.STAGE, fingerprint) not in shared(ctx).listing()
    assert ctx.store.folder(subject.STAGE, fingerprint).exists() is not quarantines


@pytest.fixture
def published_otherwise(ctx: StudyContext, tmp_path: Path) -> bytes:
    """What a file of the study's subject holds in the shared store, where another machine published it with other bits than the home's."""
    found = shared(ctx).ask(subject.STAGE, subject.fingerprint(ctx))
    assert found is not None
    shared(ctx).condemn(found)
    here = ctx.store.folder(found.stage, found.fingerprint)
    with Store(tmp_path / "b", shared(ctx)).draft(found.stage, found.fingerprint, found.manifest["inputs"]) as draft:
        for name in found.manifest["files"]:
            (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
            (draft.path / name).write_bytes((here / name).read_bytes())
        (draft.path / "note").write_bytes(b"theirs")
        draft.publish(found.manifest["summary"])
    return b"theirs"


def test_what_another_machine_published_otherwise_takes_the_place_of_the_homes(ctx: StudyContext, published_otherwise: bytes) -> None:
    upload_finished(ctx, quarantines=False)
    assert ctx.store.folder(subject.STAGE, subject.fingerprint(ctx)).exists()
    upload_finished(ctx)
    assert not ctx.store.folder(subject.STAGE, subject.fingerprint(ctx)).exists()
    assert subject.need(ctx).artifact.file("note").read_bytes() == published_otherwise


def test_what_lies_there_is_compared_without_asking_for_it_twice(ctx: StudyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    here, read, asked = shared(ctx).remote.shown, Remote.read, []

    def recorded(remote: Remote, key: str) -> bytes | None:
        if remote.shown == here:  # and not what a thread of another store, still beating, asks of that
            asked.append(key)
        return read(remote, key)

    monkeypatch.setattr(Remote, "read", recorded)
    for _ in range(2):
        _opened.cache_clear()  # another process on this home
        upload_finished(ctx)
    assert asked == [f"manifests/{subject.STAGE}/{subject.fingerprint(ctx)}.json"]
    assert ctx.store.folder(subject.STAGE, subject.fingerprint(ctx)).exists()


def test_a_manifest_that_was_mended_since_it_was_read_stays(ctx: StudyContext, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = folder / "manifests" / "toy" / "other.json"
    sound, read = manifest.read_bytes(), Remote.read
    manifest.write_bytes(b"{")

    def mended_meanwhile(remote: Remote, key: str) -> bytes | None:
        found = read(remote, key)
        if remote.shown == folder.as_uri():
            manifest.write_bytes(sound)
        return found

    monkeypatch.setattr(Remote, "read", mended_meanwhile)
    assert SharedStore(folder.as_uri()).ask("toy", "other") is None
    assert manifest.read_bytes() == sound
