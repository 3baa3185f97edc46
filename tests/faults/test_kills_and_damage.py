"""Kill it anywhere and it carries on; damage anything and it is noticed, told in one sentence, and mended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_study import SmallStudy

from sae_pipeline.store import Home, file_sha256

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def command(study: str, home: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "SAE_HOME": str(home), "PYTHONWARNINGS": "ignore"}
    line = [sys.executable, "-c", "from sae_pipeline.cli import main; main()", "run", study, "--json", *arguments]
    return subprocess.Popen(
        line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # what is started in the background ignores it
    )  # fmt: skip


def run(study: str, home: Path) -> tuple[dict[str, Any], str]:
    process = command(study, home)
    out, error = process.communicate(timeout=300)
    assert process.returncode in (0, 1), error
    return json.loads(out.strip().splitlines()[-1]), error


def kill_when(study: str, home: Path, ready: Callable[[], bool]) -> None:
    """Start a run and ``kill -9`` it as soon as ``ready`` says so."""
    process = command(study, home)
    deadline = time.monotonic() + 240
    while not ready():
        assert process.poll() is None, "the run ended before it could be killed: " + process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def weights(home: Path) -> dict[str, str]:
    """Checksum of the weights of every stored SAE, by fingerprint."""
    return {a.fingerprint: file_sha256(a.path / "sae_weights.safetensors") for a in Home(home).store.artifacts() if a.stage == "saes"}


def longer(data: dict[str, Any]) -> None:
    """Enough shards and steps for a kill to land between two of them."""
    data["mixes"] = {"MORE": data["mixes"]["MORE"]}
    data["activations"] |= {"tokens": 24_576, "shard_tokens": 1_024, "batch_size": 4}
    data["saes"] |= {"expansions": [4], "checkpoint_every": 10}
    data["saes"]["defaults"] = {"tokens": 24_576, "batch_size": 128}
    data["saes"]["arms"] = [
        {"architecture": "topk", "k": 4, "seeds": [0, 1]},
        {"architecture": "batchtopk", "k": 4},
        {"architecture": "jumprelu", "target_l0": 4},
        {"architecture": "relu", "target_l0": 4},
    ]


def test_killed_while_harvesting_and_while_training_it_ends_with_the_same_bits(small_study: SmallStudy, tmp_path: Path) -> None:
    study = small_study.write(longer)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    assert run(study, undisturbed)[0]["failed"] == 0

    partial = disturbed / "store" / ".partial"
    kill_when(study, disturbed, lambda: len(list(partial.glob("activations/*/shard-*.safetensors"))) >= 4)
    assert not list((disturbed / "store").glob("saes/*"))
    kill_when(study, disturbed, lambda: len(list(partial.glob("saes/*/checkpoint.safetensors"))) >= 3)
    finished, _ = run(study, disturbed)
    assert finished["failed"] == 0
    assert weights(disturbed) == weights(undisturbed)
    assert len(weights(disturbed)) == 2 * 5
    assert run(study, disturbed)[0]["launched"] == 0


@pytest.fixture(scope="module")
def finished_home(tmp_path_factory: pytest.TempPathFactory, small_study_data: dict[str, Any]) -> tuple[str, Path]:
    """A finished one-mix study and its home."""
    folder = tmp_path_factory.mktemp("damage")
    study = SmallStudy(folder / "toy.yaml", small_study_data)
    path = study.write(lambda d: d.update(mixes={"MORE": d["mixes"]["MORE"]}))
    assert run(path, folder / "home")[0]["failed"] == 0
    return path, folder / "home"


def artifact_file(home: Path, stage: str, name: str) -> Path:
    return next(a.path / name for a in Home(home).store.artifacts() if a.stage == stage and name in a.manifest["files"])


def test_a_truncated_shard_is_quarantined_and_harvested_again(finished_home: tuple[str, Path]) -> None:
    study, home = finished_home
    before = weights(home)
    shard = artifact_file(home, "activations", "shard-00001.safetensors")
    os.truncate(shard, shard.stat().st_size // 2)
    mended, _ = run(study, home)
    assert mended["failed"] == 0
    assert sum(n for asset, n in mended["computed_by_asset"].items() if asset.endswith("/activations")) == 1
    assert mended["computed"] == 1
    assert weights(home) == before
    assert list((home / "store" / ".quarantine").glob("activations-*"))


def test_a_flipped_byte_in_a_stored_weight_is_told_and_trained_again(finished_home: tuple[str, Path], small_study: SmallStudy) -> None:
    _, home = finished_home
    before = weights(home)
    victim = artifact_file(home, "saes", "sae_weights.safetensors")
    raw = bytearray(victim.read_bytes())
    raw[-5] ^= 1
    victim.write_bytes(raw)

    # A new evaluation set makes every SAE be read.
    def more(data: dict[str, Any]) -> None:
        data["mixes"] = {"MORE": data["mixes"]["MORE"]}
        data["held_out"]["both"] = {"shares": {"stories": 0.5, "recipes": 0.5}, "kind": "in_sample", "tokens": 2_000}

    mended, _ = run(small_study.write(more), home)
    assert mended["failed"] == 0
    assert mended["computed_by_asset"]["toy/MORE/saes"] == 1
    assert weights(home) == before
    assert list((home / "store" / ".quarantine").glob("saes-*"))


@pytest.mark.parametrize(("full", "told"), [("store", "free space"), (".", "event log that can be read and written")], ids=["store", "home"])
def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(small_study: SmallStudy, tmp_path: Path, full: str, told: str) -> None:
    home = tmp_path / "home"
    small = home / full
    small.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(small)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small file system: {mounted.stderr.strip()}")
    try:
        study = small_study.write(longer)
        process = command(study, home)
        _, error = process.communicate(timeout=300)
        assert process.returncode == 1, error
        assert told in error
        assert "Traceback" not in error
        subprocess.run(["mount", "-o", "remount,size=200m", str(small)], check=True)
        assert run(study, home)[0]["failed"] == 0
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_ctrl_c_stops_at_once_and_keeps_what_is_finished(small_study: SmallStudy, tmp_path: Path) -> None:
    study, home = small_study.write(longer), tmp_path / "home"
    process = command(study, home)
    while not list((home / "store" / ".partial").glob("saes/*/checkpoint.safetensors")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to whatever the command has started, too
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "stopped; finished work is kept" in error
    assert "Traceback" not in error
    assert run(study, home)[0]["failed"] == 0
