"""What somebody else made leads nowhere: not a data set's README, a list of weight files, an SAE's links, a view in a warehouse, nor a name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import duckdb
import pandas as pd
import pytest
import torch
from made_up_results import results, written
from model_hub import model_hub
from typer.testing import CliRunner

from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.cli import app
from sae_pipeline.corpora.sources import open_source
from sae_pipeline.errors import BadInput, SourceError, StudyError, SubjectError
from sae_pipeline.saes.formats import FORMATS
from sae_pipeline.saes.hub import load_sae
from sae_pipeline.saes.inference import InferenceSAE
from sae_pipeline.stages import comparison
from sae_pipeline.store import Store
from sae_pipeline.store.damage import DESCRIBED
from sae_pipeline.store.leases import Lease
from sae_pipeline.store.shared import Published, SharedStore, address_of, upload_of
from sae_pipeline.study import load_study
from sae_pipeline.study.text_sections import HuggingFace

SECRET = "nobody else may read this"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside.jsonl"
    path.write_text(json.dumps({"text": SECRET}) + "\n")
    return path


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    folder = tmp_path / "data set"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "train.jsonl").write_text('{"text": "fine"}\n')
    return folder


def texts(folder: Path) -> list[str]:
    source = HuggingFace(kind="huggingface", dataset=str(folder))
    return [document.text for document in open_source(source, Store(folder.parent / "store")).documents(0)]


@pytest.mark.parametrize("named", ["{outside}", "../outside.jsonl", "data/../../outside.jsonl"])
def test_the_readme_of_a_data_set_names_no_file_outside_it(named: str, data_set: Path, outside: Path) -> None:
    assert texts(data_set) == ["fine"]
    (data_set / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: '{named.format(outside=outside)}'\n---\n")
    with pytest.raises(SourceError, match="a file outside the data set's folder"):
        texts(data_set)


def test_a_link_in_a_data_set_leads_to_no_file_outside_it(data_set: Path, outside: Path) -> None:
    (data_set / "data" / "train-2.jsonl").symlink_to(outside)
    with pytest.raises(SourceError, match="a file outside the data set's folder"):
        texts(data_set)


def test_a_list_of_weight_files_names_none_elsewhere(tiny_llama: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llama, tmp_path / "sharded")
    moved = (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": f"../{moved.name}"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SubjectError, match=r"expected files beside it, found '\.\./elsewhere.safetensors'"):
        SubjectModel.load(str(folder))


@pytest.fixture
def sae() -> InferenceSAE:
    rows = torch.eye(4)
    return InferenceSAE(rows.clone(), torch.zeros(4), rows, torch.zeros(4), "topk", k=2)


@pytest.mark.parametrize("form", FORMATS)
def test_an_sae_whose_files_are_links_out_of_its_folder_is_not_read(form: str, sae: InferenceSAE, tmp_path: Path) -> None:
    real, foreign = tmp_path / "real", tmp_path / "foreign"
    real.mkdir()
    FORMATS[form].write(sae, real)
    for linked in FORMATS[form].files:
        shutil.rmtree(foreign, ignore_errors=True)
        shutil.copytree(real, foreign)
        (foreign / linked).unlink()
        (foreign / linked).symlink_to(real / linked)
        with pytest.raises(BadInput, match="expected a file inside the SAE's folder, found a link"):
            load_sae(foreign)


def test_a_hub_that_lists_names_outside_the_repository_writes_nothing_there(
    sae: InferenceSAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a").mkdir()
    FORMATS["saelens"].write(sae, tmp_path / "a")
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    up = "../" * 6
    with model_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.repositories["some/one"] = [files | {f"{up}cfg.json": b"{}", f"..{os.sep}{up}{tmp_path}/planted": b"x", "/cfg.json": b"{}"}]
        assert torch.equal(load_sae("some/one").W_dec, sae.W_dec)
        with pytest.raises(BadInput):
            load_sae("some/one/../../..")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "cache"]
    assert not any("cfg.json" in path.name for path in (tmp_path / "cache").iterdir())


def test_a_view_in_somebody_elses_warehouse_reads_no_file(tmp_path: Path, outside: Path) -> None:
    warehouse = tmp_path / "theirs.duckdb"
    with duckdb.connect(str(warehouse)) as connection:
        for name in comparison.READ:
            connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_json('{outside}')")
    with pytest.raises(BadInput, match="expected a warehouse that DuckDB reads") as caught:
        comparison.read(str(warehouse))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["../../planted", "/tmp/planted", "a/../../planted"])
def test_a_manifest_of_the_shared_store_names_no_file_outside_the_artifact(name: str, tmp_path: Path) -> None:
    shared = SharedStore(f"file://{tmp_path}/shared", patience=0)
    manifest = tmp_path / "shared" / "manifests" / "corpus" / "abc.json"
    manifest.parent.mkdir(parents=True)

    def published(file: str) -> Published | None:
        described = dict.fromkeys(DESCRIBED, "x") | {"files": {file: {"bytes": 1}}}
        manifest.write_text(json.dumps({"upload": "1", "manifest": described}))
        return shared.ask("corpus", "abc")

    assert published("part/of it.parquet") is not None
    assert published(name) is None


@pytest.mark.parametrize("name", ["...json", "..json", "a.b.json", ".hidden.json", "deep/er.json", "a b.json", "é.json", "a\n.json"])
def test_a_file_in_the_shared_store_names_no_folder_outside_a_homes_store(name: str, tmp_path: Path) -> None:
    for key in ("corpora/abc.json", f"corpora/{name}"):
        manifest = tmp_path / "shared" / "manifests" / key
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text("{}")
    assert list(SharedStore(f"file://{tmp_path}/shared", patience=0).listing()) == [("corpora", "abc")]


@pytest.mark.parametrize("stage", ["..", ".", "", ".partial", "a/b", "a b"])
def test_neither_does_a_folder_a_lease_or_an_upload(stage: str) -> None:
    assert address_of(f"manifests/{stage}/dagster.json") is None
    assert Lease.of_key(f"leases/{stage}/dagster.1") is None
    assert upload_of(f"files/{stage}/dagster.{'0' * 32}/data") is None


NAMES = ["..", ".", "a/b", "../up", "/root", "a\\b", "a\nb", "name\n", "a b", "", "1a", "ünï", "a.b", "<b>"]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_become_folders_are_letters_and_digits(name: str, tmp_path: Path) -> None:
    good = {
        "name": "fine", "subject": {"model": "bundled"}, "sources": {"s": {"kind": "installed_docs"}}, "mixes": {"M": {"s": 1.0}},
        "held_out": {"h": {"shares": {"s": 1.0}, "kind": "in_sample"}}, "activations": {"layers": [1], "tokens": 200000},
        "saes": {"expansions": [2], "arms": [{"architecture": "topk", "k": 4, "name": "fine"}]},
    }  # fmt: skip
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(good))
    assert load_study(path).name == "fine"
    changed = {
        "name": good | {"name": name},
        "sources": good | {"sources": {name: {"kind": "installed_docs"}}, "mixes": {"M": {name: 1.0}}},
        "mixes": good | {"mixes": {name: {"s": 1.0}}},
        "held_out": good | {"held_out": {name: {"shares": {"s": 1.0}, "kind": "in_sample"}}},
        "saes": good | {"saes": {"expansions": [2], "arms": [{"architecture": "topk", "k": 4, "name": name}]}},
    }
    for key, data in changed.items():
        path.write_text(json.dumps(data))
        with pytest.raises(StudyError, match=rf"(?s){key}.*expected (text|a)"):
            load_study(path)


@pytest.mark.slow
def test_names_of_a_foreign_table_write_only_into_the_report(tmp_path: Path) -> None:
    frame = results().replace({"sae_train_dataset": {"C4": "../../../C4", "EQ": "/EQ"}, "eval_dataset": {"c4-sample": "../../c4"}})
    table = written(tmp_path, pd.DataFrame(frame))
    result = CliRunner().invoke(app, ["report", "--results", str(table), "--to", str(tmp_path / "deep" / "report")])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"deep", table.name})
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["report"]
    assert not [path for path in (tmp_path / "deep").rglob("*") if "C4" in path.name]
