"""SAE folders that cannot be read as the same function, are damaged or would do harm are refused in one sentence."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from random_saes import edit, make_sae, state_dict_folder, written_by_saelens
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_pipeline.errors import BadInput
from sae_pipeline.saes.formats import FORMATS
from sae_pipeline.saes.formats.sparsify import Sparsify
from sae_pipeline.saes.inference import InferenceSAE


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "transcoder"}, "expected architecture to be standard or topk or jumprelu or gated, found transcoder"),
        ({"architecture": "matching_pursuit"}, "found matching_pursuit"),
        ({"architecture": "gated"}, "found no b_gate, b_mag, r_mag"),
        ({"architecture": "jumprelu"}, "found no threshold"),
        ({"normalize_activations": "layer_norm"}, "its factor depends on the token"),
        ({"normalize_activations": "constant_norm_rescale"}, "its factor depends on the token"),
        ({"normalize_activations": "expected_average_only_in"}, "activation_scaler.json"),
        ({"reshape_activations": "hook_z"}, "several heads"),
        ({"k": 33}, "expected k from 1 to the number of latents, 32, found 33"),
        ({"k": "4"}, "found '4'"),
        ({"metadata": {}, "activation_fn_str": "tanh-relu"}, "found tanh-relu"),
        ({"metadata": {}, "activation_fn": "topk", "activation_fn_kwargs": {"k": 4, "signed": True}}, "negative latents"),
    ],
)
def test_saelens_settings_that_cannot_be_folded_are_refused_with_the_reason(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = written_by_saelens("topk", tmp_path, 0, **changes)
    with pytest.raises(BadInput, match=words) as caught:
        InferenceSAE.load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transcode": True}, "a transcoder predicts another"),
        ({"skip_connection": True}, "linear path"),
        ({"signed": True}, "negative latents"),
        ({"activation": "groupmax"}, "one latent of each group"),
        ({"k": 0}, "found 0"),
    ],
)
def test_sparsify_settings_that_cannot_be_folded_are_refused_with_the_reason(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    Sparsify().write(make_sae("topk"), tmp_path)
    edit(tmp_path / "cfg.json", **changes)
    with pytest.raises(BadInput, match=words):
        InferenceSAE.load(tmp_path)


def test_classes_that_are_not_known_are_named(tmp_path: Path) -> None:
    folder = state_dict_folder("AutoEncoder", tmp_path)
    edit(folder / "config.json", trainer={"dict_class": "IdentityDict"})
    with pytest.raises(BadInput, match="found 'IdentityDict'"):
        InferenceSAE.load(folder)
    edit(folder / "config.json", trainer=[1])
    with pytest.raises(BadInput, match="found None"):
        InferenceSAE.load(folder)


class Executed:
    """Says so when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (Path("executed"),))


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = state_dict_folder("AutoEncoder", tmp_path)
    torch.save({"encoder.weight": Executed()}, folder / "ae.pt")
    with pytest.raises(BadInput, match="could run code"):
        InferenceSAE.load(folder)
    (folder / "ae.pt").write_bytes(pickle.dumps(Executed()))
    with pytest.raises(BadInput):
        InferenceSAE.load(folder)
    torch.save([torch.zeros(3)], folder / "ae.pt")
    with pytest.raises(BadInput, match="a list of other things"):
        InferenceSAE.load(folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_files_are_refused_in_one_sentence(form: str, tmp_path: Path) -> None:
    def written() -> Path:
        for name in FORMATS[form].files:
            (tmp_path / name).unlink(missing_ok=True)
        FORMATS[form].write(make_sae("topk"), tmp_path)
        return tmp_path

    for name in FORMATS[form].files:
        for content in (b"", b"\x00\xff" * 40, (written() / name).read_bytes()[:-30], b"[1, 2]", b"[" * 100_000):
            (written() / name).write_bytes(content)
            with pytest.raises(BadInput, match=name) as caught:
                InferenceSAE.load(tmp_path)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("b_dec"), "found no b_dec"),
        (lambda w: w.pop("W_enc"), "expected the matrix W_enc"),
        (lambda w: w.update(b_enc=torch.zeros(31)), r"expected b_enc of shape \(32,\), found \(31,\)"),
        (lambda w: w.update(W_dec=torch.full((32, 8), torch.nan)), "expected finite values"),
        (lambda w: w.update(scaling_factor=torch.full((32,), 2.0)), "expected no scaling_factor other than 1"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: Callable[[dict[str, Tensor]], Any], words: str, tmp_path: Path) -> None:
    folder = written_by_saelens("topk", tmp_path, 0)
    weights = load_file(folder / "sae_weights.safetensors")
    change(weights)
    save_file(weights, folder / "sae_weights.safetensors")
    with pytest.raises(BadInput, match=words):
        InferenceSAE.load(folder)


def test_a_folder_that_is_no_sae_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cfg.json and sae_weights.safetensors of SAELens .* found nothing"):
        InferenceSAE.load(tmp_path)
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "layers.1").mkdir()
    with pytest.raises(BadInput, match=r"found layers.1/, model.safetensors"):
        InferenceSAE.load(tmp_path)
    with pytest.raises(BadInput, match="found no such folder"):
        InferenceSAE.load(tmp_path / "nowhere")


def test_two_saes_in_one_folder_are_not_told_apart(tmp_path: Path) -> None:
    for form in FORMATS.values():
        form.write(make_sae("topk"), tmp_path)
    with pytest.raises(BadInput, match="expected one SAE"):
        InferenceSAE.load(tmp_path)


def test_a_link_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "sae", tmp_path / "elsewhere.json"
    folder.mkdir()
    make_sae("relu").save(folder)
    (folder / "cfg.json").rename(elsewhere)
    (folder / "cfg.json").symlink_to(elsewhere)
    with pytest.raises(BadInput, match="found a link to"):
        InferenceSAE.load(folder)
    (folder / "cfg.json").unlink()
    (folder / "cfg.json").symlink_to("cfg.json")
    with pytest.raises(BadInput):
        InferenceSAE.load(folder)
