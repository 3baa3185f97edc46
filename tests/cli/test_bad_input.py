"""Bad input: exit code 2 (or 1 where it only shows while running), one helpful sentence each, never a traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_study import SmallStudy

from sae_pipeline.cli import main

Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of ``sae-pipeline`` with these arguments."""
    monkeypatch.setattr("sys.argv", ["sae-pipeline", *arguments])
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, capfd.readouterr().err


def set_in(path: str, value: Any) -> Edit:
    """An edit that sets ``a.b.c`` of the study's data."""

    def edit(data: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for part in parents:
            data = data.setdefault(part, {})
        data[last] = value

    return edit


def source(text: str, name: str = "text.jsonl", **fields: Any) -> Callable[[Path], Edit]:
    """An edit that reads the stories from a file with this content."""

    def prepare(folder: Path) -> Edit:
        (folder / name).write_bytes(text.encode("latin-1"))
        return set_in("sources.stories", {"kind": "files", "paths": [str(folder / name)], **fields})

    return prepare


REFUSED: dict[str, tuple[Edit, list[str]]] = {
    "unknown key": (set_in("saes.optimizer", "sgd"), ["toy.yaml:", "unknown key 'optimizer'", "allowed here: expansions"]),
    "batch size of nothing": (set_in("activations.batch_size", 0), ["toy.yaml:", "activations.batch_size", "greater than or equal to 1"]),
    "corpus larger than the disk": (set_in("activations.tokens", 10**13), ["disk that holds a corpus of 10,000,000,000,000 tokens", "lower activations.tokens"]),
    "source that is not declared": (set_in("mixes.MORE", {"poems": 1.0}), ["'poems'", "not declared", "stories, recipes"]),
    "shares that do not sum to one": (set_in("mixes.MORE", {"stories": 0.5, "recipes": 0.4}), ["sum to 1, found 0.9"]),
    "layer out of range": (set_in("activations.layers", [0, 2]), ["toy.yaml:", "activations.layers: expected", "from 0 to 1", "found 2"]),
    "context longer than the model's": (set_in("activations.context_length", 128), ["at most 64", "found 128"]),
    "k above d_sae": (set_in("saes.arms", [{"architecture": "topk", "k": 100}]), ["toy.yaml:", "at most 64 active latents", "found 100", "lower k"]),
    "target L0 above d_sae": (set_in("saes.arms", [{"architecture": "relu", "target_l0": 1e4}]), ["at most 64 active latents", "found 10000"]),
    "budget above the corpus": (set_in("saes.defaults.tokens", 10**6), ["1000000 training tokens", "corpus.repeat: true"]),
    "device of another machine": (set_in("compute.device", "cuda:7"), ["compute.device", "'cuda:7'", "cpu"]),
    "device that does not exist": (set_in("compute.device", "tpu"), ["compute.device", "'tpu'"]),
    "missing checkpoint folder": (set_in("subject.model", "/no/such/model"), ["subject.model", "nothing at /no/such/model"]),
    "arms of no mix": (
        set_in("saes.arms", [{"architecture": "topk", "k": 4, "only": {"mixes": []}}]),
        ["saes.arms[0].only.mixes: expected a list with at least 1 item, found none; add"],
    ),
    "matching by no factor": (set_in("matching", {"factors": []}), ["matching.factors: expected a list with at least 1 item, found none; add"]),
    "unknown rubric": (set_in("analysis.rubrics", ["strict.v9"]), ["strict.v9", "house.v1"]),
    "rubric file that is not there": (set_in("analysis.rubrics", ["own.yaml"]), ["own.yaml"]),
    "a rubric twice": (set_in("analysis.rubrics", ["house.v1", "house.v1"]), ["different names", "'house.v1' twice"]),
    "files that match nothing": (set_in("sources.stories.paths", ["/no/such/*.jsonl"]), ["/no/such/*.jsonl"]),
    "package that is not installed": (set_in("sources.stories", {"kind": "installed_docs", "packages": ["no_such_package"]}), ["toy.yaml:", "sources.stories: ", "no_such_package"]),
    "cron expression": (set_in("schedules", {"report": "weekly"}), ["five fields", "'weekly'"]),
    "no whole context": (
        set_in("activations.context_length", 10**6),
        ["toy.yaml:", "activations.tokens: expected at least one context of 1000000 tokens, found"],
    ),
    "half a context": (set_in("activations.context_length", 2), ["activations.context_length", "greater than or equal to 8"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_study_that_cannot_run_is_refused_before_anything_starts(
    name: str, small_study: SmallStudy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    edit, expected = REFUSED[name]
    for verb in ("run", "plan"):
        code, error = command(monkeypatch, capfd, verb, small_study.write(edit))
        assert code == 2, error
        assert "Traceback" not in error
        for part in expected:
            assert part in error, error
    assert not (tmp_path / "home" / "store" / "corpus").exists()


FAILING: dict[str, tuple[Callable[[Path], Edit], list[str]]] = {
    "empty file": (source(""), ["text.jsonl", "documents with text, found none"]),
    "line that is not JSON": (source('{"text": "fine"}\n{"text": \n'), ["text.jsonl:2", "malformed JSON"]),
    "missing text field": (source('{"body": "fine"}\n'), ["text", "body"]),
    "not UTF-8": (source('{"text": "caf\xe9"}\n'), ["text.jsonl", "UTF-8"]),
    "too few tokens": (source('{"text": "just a few words here"}\n' * 3), ["stories", "found"]),
    "unreadable parquet": (source("not parquet", "text.parquet"), ["text.parquet"]),
}


@pytest.mark.parametrize("name", FAILING)
def test_text_that_cannot_be_used_is_one_sentence(
    name: str, small_study: SmallStudy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    prepare, expected = FAILING[name]
    code, error = command(monkeypatch, capfd, "run", small_study.write(prepare(tmp_path)), "--select", "key:toy/MORE/corpus or key:toy/subject_model")
    assert code in (1, 2), error
    assert "Traceback" not in error
    for part in expected:
        assert part in error, error


def test_a_truncated_checkpoint_is_one_sentence(
    small_study: SmallStudy, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_llama, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    code, error = command(monkeypatch, capfd, "run", small_study.write(set_in("subject.model", str(broken))))
    assert code in (1, 2)
    assert "Traceback" not in error
    assert str(broken) in error
    assert "checkpoint is complete" in error


def test_a_checkpoint_without_configuration_is_refused(
    small_study: SmallStudy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, error = command(monkeypatch, capfd, "run", small_study.write(set_in("subject.model", str(tmp_path))))
    assert code == 2
    assert "config.json" in error


@pytest.mark.parametrize("home", ["/proc/sae", "/dev/null/sae"])
def test_a_home_that_cannot_be_written_is_one_sentence(
    home: str, small_study: SmallStudy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAE_HOME", home)
    code, error = command(monkeypatch, capfd, "run", small_study.write())
    assert code in (1, 2)
    assert "SAE_HOME: expected a folder that can be written" in error


ARGUMENTS: dict[str, tuple[list[str], str]] = {
    "missing study": (["run", "nowhere.yaml"], "none that can be read"),
    "a folder as study": (["run", "."], "none that can be read"),
    "unknown selection": (["run", "STUDY", "--select", "key:nothing/here"], "names none"),
    "unreadable selection": (["run", "STUDY", "--select", "group:("], "asset selection"),
    "unknown SAE": (["export", "MORE.L00.x02.topk-k5-t1k-s0", "--to", "out", "--study", "STUDY"], "sae-pipeline saes"),
    "unknown format": (
        ["export", "MORE.L00.x02.topk-k4-t6144-s0", "--to", "out", "--format", "onnx", "--study", "STUDY"],
        "one of saelens, dictionary_learning, sparsify, found 'onnx'",
    ),
    "export to what exists": (["export", "MORE.L00.x02.topk-k4-t6144-s0", "--to", ".", "--study", "STUDY"], "does not exist yet"),
    "SAEs before any run": (["saes", "STUDY"], "sae-pipeline run"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_that_mean_nothing_are_told_what_is_allowed(
    name: str, small_study: SmallStudy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments, expected = ARGUMENTS[name]
    study = small_study.write()
    code, error = command(monkeypatch, capfd, *[study if a == "STUDY" else a for a in arguments])
    assert code in (1, 2)
    assert "Traceback" not in error
    assert expected in error, error


NOBODY = "http://127.0.0.1:9"
"""An address at which nothing listens."""


@pytest.mark.parametrize("arguments", [["match", "some/one", "some/other"], ["evaluate", "some/one", "--study", "STUDY"], ["plan", "HUB"]])
def test_a_hub_that_cannot_be_reached_ends_every_command_alike(arguments: list[str], small_study: SmallStudy, tmp_path: Path) -> None:
    hub = {"STUDY": small_study.write()}
    if "HUB" in arguments:
        hub["HUB"] = small_study.write(set_in("subject.model", "some/model"))
    environment = os.environ | {"HF_ENDPOINT": NOBODY, "HF_HOME": str(tmp_path / "cache")}
    program = [sys.executable, "-c", "from sae_pipeline.cli import main; main()"]
    ended = subprocess.run([*program, *(hub.get(word, word) for word in arguments)], capture_output=True, text=True, env=environment)
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "expected" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("arguments", [["run"], ["plan"], ["report", "--json"]])
def test_ctrl_c_is_one_sentence_however_early_it_comes(
    arguments: list[str], small_study: SmallStudy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(path: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sae_pipeline.study.load_study", interrupted)
    code, error = command(monkeypatch, capfd, arguments[0], small_study.write(), *arguments[1:])
    assert (code, error) == (130, "stopped; finished work is kept and the next run goes on from it\n")
