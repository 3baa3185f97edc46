"""What a corpus, a derived source and the text tables are known by: all that decides them, and text that stayed as it was."""

from __future__ import annotations

import copy
import json
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from transformers import PreTrainedTokenizerFast

from assets.sources import derived_source_asset
from sae_pipeline.activations import identity
from sae_pipeline.compute import Compute
from sae_pipeline.corpora import mixing
from sae_pipeline.corpora.sources import hub, installed
from sae_pipeline.corpora.sources.installed import InstalledObjects
from sae_pipeline.errors import BadInput, SourceError
from sae_pipeline.stages import corpora, derived, slices, sources, subject, text
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Home, exclusive
from sae_pipeline.study import Study

Data = dict[str, Any]


def opened(data: Data, home: Path) -> StudyContext:
    """The study as another process or asset would open it."""
    kept = Home(home)
    return StudyContext(Study.model_validate(data), kept, Compute("cpu", None, kept.locks))


@pytest.fixture
def data(small_study_data: Data) -> Data:
    return copy.deepcopy(small_study_data)


@pytest.fixture
def stories(data: Data, toy_text: Path, tmp_path: Path) -> Path:
    """A copy of the stories that may be edited, read by the study."""
    path = tmp_path / "stories.jsonl"
    shutil.copy(toy_text / "stories.jsonl", path)
    data["sources"]["stories"] = {"kind": "files", "paths": [str(path)], "malformed": "skip"}
    return path


def retrieved(data: Data, **settings: Any) -> Data:
    data["sources"]["near"] = {"kind": "retrieved", "source": "recipes", "keywords": ["sugar"], "top": 30} | settings
    data["mixes"] = {"MORE": {"near": 1.0}}
    return data


# ------------------------------------------------------------------------------------------------ tables


def test_tables_follow_what_was_left_out_of_a_corpus_whose_content_is_the_same(data: Data, stories: Path, tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        ctx = opened(data, tmp_path / "home")
        subject.prepare(ctx)
        for lane in text.lanes(ctx):
            corpora.build(ctx, lane)
        frames = text.frames(text.describe(ctx))
        left_out = frames["left_out"].query("corpus == 'MORE' and source == 'stories'").set_index("reason")["records"].to_dict()
        whole = frames["corpus_statistics"].query("corpus == 'MORE' and scope == 'stories'")["exact_duplicates"].item()
        found.append((corpora.need(ctx, "MORE").content, left_out, whole))
        lines = stories.read_text().splitlines()
        stories.write_text("\n".join([*lines[:300], *["{broken"] * 7, *[lines[0]] * 5, *lines[300:]]) + "\n")
    assert found[0] == (found[1][0], {}, 0)
    assert found[1][1:] == ({"malformed": 7, "duplicate": 5}, 5)


# ------------------------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize("edit", [{"activations": {"context_length": 16}}, {"subject": {"dtype": "bfloat16"}}], ids=["context length", "dtype"])
@pytest.mark.parametrize(("method", "follows"), [("dense", True), ("bm25", False)])
def test_a_source_retrieved_by_the_subject_follows_how_the_subject_reads(data: Data, tmp_path: Path, method: str, follows: bool, edit: Data) -> None:
    retrieved(data, method=method)
    changed = data | {section: data[section] | settings for section, settings in edit.items()}
    contexts = [opened(each, tmp_path) for each in (data, changed)]
    assert (len({derived.fingerprint(ctx, "near") for ctx in contexts}) == 2) is follows
    assert (len({str(derived_source_asset(ctx.study, "near").code_versions_by_key) for ctx in contexts}) == 2) is follows


@pytest.mark.parametrize(("template", "follows"), [("auto", True), ("plain", False)])
def test_a_source_retrieved_from_conversations_follows_the_chat_template(
    data: Data, tiny_llama: Path, tmp_path: Path, template: str, follows: bool
) -> None:
    chats = tmp_path / "chats.jsonl"
    turns = ({"messages": [{"role": "user", "content": f"sugar {n}?"}, {"role": "assistant", "content": f"{n} cups"}]} for n in range(40))
    chats.write_text("".join(json.dumps(turn) + "\n" for turn in turns))
    data["sources"]["chats"] = {"kind": "files", "paths": [str(chats)], "chat": {"template": template}}
    retrieved(data, source="chats", top=10)
    texts = []
    for number, written in enumerate((None, "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}")):
        checkpoint = tmp_path / f"checkpoint{number}"
        shutil.copytree(tiny_llama, checkpoint)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint)
        tokenizer.chat_template = written
        tokenizer.save_pretrained(checkpoint)
        ctx = opened(data | {"subject": {"model": str(checkpoint)}}, tmp_path / "home")
        texts.append(pd.read_parquet(derived.make(ctx, "near").file("documents.parquet"))["text"][0])
    assert texts[0].startswith("User: sugar")
    assert texts[1].startswith("[user] sugar" if follows else "User: sugar")


@pytest.mark.parametrize("version", ["READER_VERSION", "TEMPLATES_VERSION"])
def test_another_way_of_reading_or_writing_records_is_another_recipe(data: Data, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    data["sources"]["stories"]["chat"] = {}
    retrieved(data, source="stories")
    study = Study.model_validate(data | {"mixes": {"MORE": {"near": 0.5, "recipes": 0.5}}, "subject": {"model": "bundled"}})
    parts = (lambda: slices.mix_corpus(study, "MORE"), lambda: slices.source(study, "near"), lambda: slices.subject(study))
    before = [part() for part in parts]
    monkeypatch.setattr(slices, version, 99)
    assert all(part() != known for part, known in zip(parts, before, strict=True))


# ------------------------------------------------------------------------------------------------ encoders


def test_a_local_encoder_is_known_by_its_files(data: Data, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("encoder", "moved", "other")]
    for folder in folders:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    (folders[2] / "model.safetensors").write_bytes(b"weights")
    first, moved, other = (
        derived.fingerprint(opened(retrieved(data, method="dense", encoder=str(folder)), tmp_path / "home"), "near") for folder in folders
    )
    assert first == moved != other


def test_an_encoder_of_the_hub_is_pinned_to_a_commit(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits, loaded = iter("abc"), []

    class Loaded:
        def __init__(self, model: str, device: str, revision: str, trust_remote_code: bool, model_kwargs: dict[str, bool]) -> None:
            assert not trust_remote_code
            assert model_kwargs == {"use_safetensors": True}
            loaded.append((model, revision))

    monkeypatch.setattr(identity, "resolve_commit", lambda model, revision: f"{model}@{next(commits)}")
    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=Loaded))
    retrieved(data, method="dense", encoder="small")
    one, again, elsewhere = (opened(data, tmp_path / home) for home in ("home", "home", "elsewhere"))
    assert derived.fingerprint(one, "near") == derived.fingerprint(again, "near") != derived.fingerprint(elsewhere, "near")
    declared = one.study.sources["near"]
    derived._encoder(again, declared, "cpu")
    assert loaded == [("sentence-transformers/small", "sentence-transformers/small@a")]


def test_an_encoder_that_cannot_be_found_is_refused_before_anything_runs(data: Data, tmp_path: Path) -> None:
    ctx = opened(retrieved(data, method="dense", encoder="/no/such/folder"), tmp_path)
    with pytest.raises(BadInput, match=r"encoder: expected 'subject', a local folder or .* found /no/such/folder"):
        derived.check(ctx, "near")


# ------------------------------------------------------------------------------------------------ text that moves


def as_hub_folder(data: Data, stories: Path) -> Path:
    folder = stories.parent / "mirror"
    (folder / "data").mkdir(parents=True)
    file = folder / "data" / "train-00000-of-00001.jsonl"
    shutil.copy(stories, file)
    data["sources"]["stories"] = {"kind": "huggingface", "dataset": str(folder)}
    return file


def as_files(data: Data, stories: Path) -> Path:
    return stories


@pytest.mark.parametrize("laid_out", [as_files, as_hub_folder])
@pytest.mark.parametrize("moment", ["before reading", "while reading"])
def test_a_corpus_of_text_that_changed_since_it_was_named_is_never_published(
    data: Data, stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, laid_out: Callable[[Data, Path], Path], moment: str
) -> None:
    file = laid_out(data, stories)
    original = file.read_text()
    ctx = opened(data, tmp_path / "home")
    subject.prepare(ctx)
    named = sources.data_version(ctx, "stories")
    if moment == "before reading":
        file.write_text(original.replace("dog", "cat"))
    else:
        take = mixing.Mix.take

        def edited(*arguments: Any) -> Any:
            taken = take(*arguments)
            file.write_text(original.replace("dog", "cat"))
            return taken

        monkeypatch.setattr(mixing.Mix, "take", edited)
    with pytest.raises(SourceError, match=r"source stories: .* found that it changed while it was read; run again"):
        corpora.build(ctx, "MORE")
    assert [found.stage for found in ctx.store.artifacts()] == ["subject"]
    monkeypatch.undo()
    for content, word, version in ((original, "dog", True), (original.replace("dog", "cat"), "cat", False)):  # what was left behind is not built upon
        file.write_text(content)
        ctx = opened(data, tmp_path / "home")
        assert (sources.data_version(ctx, "stories") == named) is version
        texts = pd.read_parquet(corpora.build(ctx, "MORE").file("documents.parquet")).query("source == 'stories'")["text"]
        assert texts.str.contains(word).any()
        assert not texts.str.contains({"dog": "cat", "cat": "dog"}[word]).any()


def test_the_same_context_may_try_again_with_the_new_text(data: Data, stories: Path, tmp_path: Path) -> None:
    ctx = opened(data, tmp_path / "home")
    subject.prepare(ctx)
    sources.data_version(ctx, "stories")
    stories.write_text(stories.read_text().replace("dog", "cat"))
    with pytest.raises(SourceError, match="run again"):
        corpora.build(ctx, "MORE")
    assert not corpora.build(ctx, "MORE").reused


def test_a_source_retrieved_from_text_that_changed_is_not_published(
    data: Data, stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sae_pipeline.corpora import retrieval

    retrieve = retrieval.retrieve

    def edited(*arguments: Any, **settings: Any) -> Data:
        summary = retrieve(*arguments, **settings)
        stories.write_text(stories.read_text().replace("dog", "cat"))
        return summary

    monkeypatch.setattr(retrieval, "retrieve", edited)
    ctx = opened(retrieved(data, source="stories", keywords=["dog"]), tmp_path / "home")
    with pytest.raises(SourceError, match="changed while it was read"):
        derived.make(ctx, "near")
    assert not list(ctx.store.artifacts())


def test_packages_that_are_exchanged_while_they_are_parsed_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = iter(["1.0", "2.0"])
    monkeypatch.setattr(installed, "_package_version", lambda name: next(versions))
    monkeypatch.setattr(installed, "_extract", lambda draft, packages: {})
    store = Home(tmp_path).store
    with pytest.raises(SourceError, match=r"installed packages yaml: .* changed while it was read"):
        list(InstalledObjects("installed_docs", ("yaml",), store).documents(0))
    assert not list(store.artifacts())


# ------------------------------------------------------------------------------------------------ branches of the hub


@pytest.fixture
def branch(data: Data, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A data set whose branch can be moved: ``branch["at"]`` is the commit it points to."""
    at = {"at": "a" * 40}
    monkeypatch.setattr(hub.HubDataset, "_asked_commit", lambda source: at["at"])
    data["sources"]["stories"] = {"kind": "huggingface", "dataset": "someone/stories"}
    return at


def test_every_asset_of_a_launch_reads_the_commit_that_the_first_was_told(data: Data, branch: dict[str, str], tmp_path: Path) -> None:
    first = opened(data, tmp_path)
    version, spools = sources.data_version(first, "stories"), list(sources.spools(first))
    branch["at"] = "b" * 40
    later = opened(data, tmp_path)
    assert (sources.data_version(later, "stories"), list(sources.spools(later))) == (version, spools)
    assert sources.data_version(opened(data | {"name": "another"}, tmp_path), "stories") != version


def test_looking_at_a_branch_again_asks_again_but_not_under_a_running_launch(data: Data, branch: dict[str, str], tmp_path: Path) -> None:
    ctx = opened(data, tmp_path)
    version = sources.observe(ctx, "stories")
    branch["at"] = "b" * 40
    with exclusive(ctx.home.locks / "launcher-1.lock"):
        assert sources.observe(opened(data, tmp_path), "stories") == version
    moved = sources.observe(ctx, "stories")
    assert moved != version
    assert sources.data_version(opened(data, tmp_path), "stories") == moved


def test_a_full_commit_is_never_asked_for(data: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub.HubDataset, "_asked_commit", lambda source: pytest.fail("the hub was asked"))
    data["sources"]["stories"] = {"kind": "huggingface", "dataset": "someone/stories", "revision": "c" * 40}
    assert sources.observe(opened(data, tmp_path), "stories") == sources.data_version(opened(data, tmp_path), "stories")
