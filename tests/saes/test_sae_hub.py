"""SAEs from and to the hub, with a small server on the loopback in its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from model_hub import COMMITS, TOKEN, ModelHub, model_hub
from typer.testing import CliRunner

from sae_pipeline.cli import app
from sae_pipeline.errors import BadInput, HubError
from sae_pipeline.saes.formats import FORMATS
from sae_pipeline.saes.hub import load_sae, push
from sae_pipeline.saes.inference import InferenceSAE


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModelHub]:
    """The hub at HF_ENDPOINT, an empty cache and a token that may write as ``me``."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with model_hub() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        yield served


@pytest.fixture
def sae() -> InferenceSAE:
    generator = torch.Generator().manual_seed(3)
    rows = torch.nn.functional.normalize(torch.randn(10, 4, generator=generator), dim=1)
    return InferenceSAE(rows.t().contiguous(), torch.randn(10, generator=generator), rows, torch.randn(4, generator=generator), "topk", k=3)


def files_of(sae: InferenceSAE, form: str, folder: Path, prefix: str = "") -> dict[str, bytes]:
    folder.mkdir()
    FORMATS[form].write(sae, folder)
    return {prefix + path.name: path.read_bytes() for path in folder.iterdir()}


X = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.2, 0.1, -4.0, 1.0]])


@pytest.mark.parametrize("form", FORMATS)
def test_an_sae_of_the_hub_is_the_one_that_was_put_there(form: str, hub: ModelHub, sae: InferenceSAE, tmp_path: Path) -> None:
    hub.repositories["some/one"] = [files_of(sae, form, tmp_path / "a") | {"weights.bin": b"large and unasked for"}]
    found = load_sae("some/one")
    assert torch.equal(found.encode(X), sae.encode(X))
    assert (found.metadata["hub_id"], found.metadata["hub_revision"]) == ("some/one", COMMITS[0])
    assert not any("weights.bin" in request for request in hub.seen)


def test_a_revision_pins_an_older_state_and_a_folder_of_the_repository_is_found(hub: ModelHub, sae: InferenceSAE, tmp_path: Path) -> None:
    doubled = InferenceSAE(sae.W_enc, sae.b_enc, 2 * sae.W_dec, sae.b_dec, "topk", k=3)
    place = "layers.3 [mlp]/résidu/"
    hub.repositories["some/one"] = [files_of(sae, "saelens", tmp_path / "a", place), files_of(doubled, "saelens", tmp_path / "b", place)]
    assert torch.equal(load_sae(f"some/one/{place}", COMMITS[0]).W_dec, sae.W_dec)
    assert torch.equal(load_sae(f"some/one/{place}").W_dec, doubled.W_dec)
    with pytest.raises(HubError, match="no such branch"):
        load_sae(f"some/one/{place}", "v9")


def test_what_the_hub_does_not_have_is_one_sentence(hub: ModelHub, sae: InferenceSAE, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HubError, match="none that may be read"):
        load_sae("some/other")
    hub.repositories["some/empty"] = [{"README.md": b"nothing"}]
    with pytest.raises(BadInput, match=r"expected an SAE .* found"):
        load_sae("some/empty")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="reach"):
        load_sae("some/one")


@pytest.mark.parametrize("name", ["nowhere", "./no/folder", "/no/folder", "a/../b", "a/b/../../etc", "~/sae", ""])
def test_what_is_neither_a_folder_nor_a_hub_id_is_not_asked_of_the_hub(
    name: str, hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput):
        load_sae(name)
    assert hub.seen == []


def test_a_local_folder_is_read_without_the_hub_and_has_no_revisions(hub: ModelHub, sae: InferenceSAE, tmp_path: Path) -> None:
    files_of(sae, "sparsify", tmp_path / "my sae – ü")
    assert torch.equal(load_sae(tmp_path / "my sae – ü").encode(X), sae.encode(X))
    with pytest.raises(BadInput, match="no revision of a local folder"):
        load_sae(tmp_path / "my sae – ü", "main")
    assert hub.seen == []


def test_a_pushed_folder_is_on_the_hub_and_comes_back(hub: ModelHub, sae: InferenceSAE, tmp_path: Path) -> None:
    written = files_of(sae, "saelens", tmp_path / "a")
    result = CliRunner().invoke(app, ["push", str(tmp_path / "a"), "me/sae", "--private"])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip().splitlines()[-1] == f"{hub.endpoint}/me/sae"
    assert TOKEN not in result.output
    assert hub.repositories["me/sae"][-1] == written
    assert hub.private == {"me/sae"}
    assert hub.uploaded_by == {TOKEN}
    assert torch.equal(load_sae("me/sae").encode(X), sae.encode(X))


def test_only_the_sae_and_its_card_are_uploaded(hub: ModelHub, sae: InferenceSAE, tmp_path: Path) -> None:
    written = files_of(sae, "saelens", tmp_path / "a")
    (tmp_path / "a" / "README.md").write_text("card")
    (tmp_path / "a" / "drafts").mkdir()
    for name in ("training.json", ".env", "notes.txt", "checkpoint.safetensors", "drafts/cfg.json"):
        (tmp_path / "a" / name).write_text("not for others")
    push(tmp_path / "a", "me/sae")
    assert hub.repositories["me/sae"][-1] == written | {"README.md": b"card"}


def test_a_push_that_cannot_be_says_why_and_never_shows_the_token(hub: ModelHub, sae: InferenceSAE, tmp_path: Path, monkeypatch) -> None:
    files_of(sae, "saelens", tmp_path / "a")
    cases = [
        ({"HF_TOKEN": ""}, "me/sae", "HF_TOKEN: expected a token"),
        ({"HF_TOKEN": "hf_wrongwrongwrong"}, "me/sae", "one that the hub does not accept"),
        ({}, "others/sae", "one that may not"),
        ({}, "me/with spaces", "expected owner/name"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "me/sae", "expected an answer of http://127.0.0.1:9"),
    ]
    for changes, repository, words in cases:
        with monkeypatch.context() as patch:
            for name, value in changes.items():
                patch.setenv(name, value)
            with pytest.raises((BadInput, HubError), match=words) as caught:
                push(tmp_path / "a", repository)
            assert "hf_" not in str(caught.value)
    assert hub.repositories.get("others/sae") is None
    with monkeypatch.context() as patch, pytest.raises(HubError, match="switched off"):
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        push(tmp_path / "a", "me/sae")
    with pytest.raises(BadInput, match="expected an SAE"):
        push(tmp_path, "me/sae")
