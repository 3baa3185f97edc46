"""Formats of other libraries: what is written is read as the same function, what is read is folded exactly, the rest is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_pipeline.errors import BadInput, ExportError
from sae_pipeline.saes.formats import FORMATS, recognised
from sae_pipeline.saes.formats.dictionary_learning import LAYOUTS, DictionaryLearning
from sae_pipeline.saes.formats.golden import TOLERANCE, check, golden_inputs
from sae_pipeline.saes.formats.saelens import SAELens
from sae_pipeline.saes.formats.sparsify import Sparsify
from sae_pipeline.saes.inference import InferenceSAE

KINDS = ("relu", "topk", "jumprelu", "gated", "batchtopk", "matryoshka")
SHAPES = [(8, 32), (8, 19), (8, 5), (3, 1)]
"""Overcomplete, not a multiple, undercomplete, a single latent."""


def make_sae(kind: str, d_model: int = 8, d_sae: int = 32, seed: int = 0, unit: bool = True) -> InferenceSAE:
    """A random SAE whose latents fire on some inputs; batchtopk and matryoshka as they are exported."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    rows = torch.nn.functional.normalize(draw(d_sae, d_model), dim=1) * (1 if unit else 0.5 + 2 * torch.rand(d_sae, 1, generator=generator))
    weights = {"W_enc": rows.t().contiguous() + 0.1 * draw(d_model, d_sae), "b_enc": 0.3 * draw(d_sae), "W_dec": rows, "b_dec": 3 * draw(d_model)}
    metadata: dict[str, Any] = {"model_name": "toy", "hook_name": "blocks.1.hook_resid_post", "architecture": kind}
    k = min(4, d_sae)
    if kind == "jumprelu":
        return InferenceSAE(**weights, activation=kind, threshold=0.1 + torch.rand(d_sae, generator=generator), metadata=metadata)
    if kind in ("batchtopk", "matryoshka"):
        metadata |= {"k": k} | ({"matryoshka_shares": [0.25, 0.5, 1.0]} if kind == "matryoshka" else {})
        return InferenceSAE(**weights, activation="jumprelu", threshold=torch.full((d_sae,), 0.4), metadata=metadata)
    if kind == "gated":
        return InferenceSAE(**weights, activation=kind, r_mag=0.3 * draw(d_sae), b_mag=0.3 * draw(d_sae), metadata=metadata)
    return InferenceSAE(**weights, activation=kind, k=k if kind == "topk" else None, metadata=metadata)


def inputs(sae: InferenceSAE) -> Tensor:
    return golden_inputs(sae.to(torch.float64)).float()


def agree(found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> bool:
    """Within a tolerance relative to the largest value."""
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max().clamp_min(1e-30))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ------------------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_the_same_function_read_by_us_and_by_the_librarys_formula(kind: str, unit: bool, form: str, tmp_path: Path) -> None:
    for number, (d_model, d_sae) in enumerate(SHAPES):
        sae, folder = make_sae(kind, d_model, d_sae, seed=number, unit=unit), tmp_path / f"{number} – π [{form}]"
        if not FORMATS[form].expresses(sae):
            assert form == "sparsify"
            assert kind != "topk"
            continue
        folder.mkdir()
        FORMATS[form].write(sae, folder)
        assert check(sae, FORMATS[form], folder) < 1e-6
        assert recognised(folder) is FORMATS[form]
        loaded, x = InferenceSAE.load(folder), inputs(sae)
        assert agree(loaded.encode(x), sae.encode(x), 1e-5)
        assert (loaded.d_model, loaded.d_sae, loaded.k, loaded.activation) == (d_model, d_sae, sae.k, sae.activation)
        assert loaded.metadata | sae.metadata == loaded.metadata
        assert d_sae == 1 or (sae.encode(x) > 0).any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_native_format_keeps_every_bit(kind: str, tmp_path: Path) -> None:
    sae = make_sae(kind, unit=False)
    sae.save(tmp_path)
    loaded = InferenceSAE.load(tmp_path)
    for name, value in vars(sae).items():
        assert torch.equal(getattr(loaded, name), value) if isinstance(value, Tensor) else name == "metadata" or getattr(loaded, name) == value


@pytest.mark.parametrize(
    ("kind", "unit", "expected"),
    [
        ("relu", True, "AutoEncoder"),
        ("relu", False, "AutoEncoderNew"),
        ("gated", True, "GatedAutoEncoder"),
        ("topk", True, "AutoEncoderTopK"),
        ("batchtopk", True, "BatchTopKSAE"),
        ("matryoshka", True, "MatryoshkaBatchTopKSAE"),
        ("jumprelu", True, "JumpReluAutoEncoder"),
    ],
)
def test_dictionary_learning_gets_the_class_that_computes_the_same(kind: str, unit: bool, expected: str, tmp_path: Path) -> None:
    DictionaryLearning().write(make_sae(kind, unit=unit), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["trainer"]["dict_class"] == expected


def test_a_batchtopk_sae_with_thresholds_of_its_own_is_a_jumprelu_there(tmp_path: Path) -> None:
    sae = make_sae("batchtopk")
    assert sae.threshold is not None
    mixed = replace(sae, threshold=sae.threshold + torch.arange(32) / 100)
    DictionaryLearning().write(mixed, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["trainer"]["dict_class"] == "JumpReluAutoEncoder"
    assert check(mixed, DictionaryLearning(), tmp_path) < 1e-6


def test_matryoshka_groups_survive_two_trips(tmp_path: Path) -> None:
    sae = make_sae("matryoshka", d_sae=30)
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        DictionaryLearning().write(sae, folder)
        assert torch.load(folder / "ae.pt", weights_only=True)["group_sizes"].tolist() == [8, 7, 15]
        edit(folder / "config.json", sae_pipeline=None)
        sae = InferenceSAE.load(folder)


def test_metadata_of_an_older_version_is_not_taken_for_an_older_file(tmp_path: Path) -> None:
    sae = make_sae("topk")
    sae = replace(sae, metadata=sae.metadata | {"sae_lens_version": "3.1.0"})
    sae.save(tmp_path)
    assert json.loads((tmp_path / "cfg.json").read_text())["metadata"]["sae_lens_version"] == "6.54.0"
    assert InferenceSAE.load(tmp_path).k == 4


# ------------------------------------------------------------------------------------------------ folding


def written_by_saelens(kind: str, folder: Path, seed: int, **changes: Any) -> Path:
    """A folder as SAELens leaves it, with other settings than we write."""
    SAELens().write(make_sae(kind, seed=seed, unit=False), folder)
    edit(folder / "cfg.json", **changes)
    return folder


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["relu", "topk", "jumprelu", "gated"]),
    centred=st.booleans(),
    rescaled=st.booleans(),
    factor=st.one_of(st.none(), st.floats(1e-3, 1e3)),
    seed=st.integers(0, 2**16),
)
def test_saelens_settings_fold_to_the_same_function(tmp_path_factory, kind, centred, rescaled, factor, seed) -> None:
    folder = written_by_saelens(kind, tmp_path_factory.mktemp("sae"), seed, apply_b_dec_to_input=centred)
    if kind == "topk":
        edit(folder / "cfg.json", rescale_acts_by_decoder_norm=rescaled)
    if factor is not None:
        edit(folder / "cfg.json", normalize_activations="expected_average_only_in")
        (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": factor}))
    sae = InferenceSAE.load(folder).to(torch.float64)
    x = golden_inputs(sae)
    latents, x_hat = SAELens().outputs(folder, x)
    assert agree(sae.encode(x), latents)
    assert agree(sae.decode(sae.encode(x)), x_hat)


@settings(max_examples=25, deadline=None)
@given(named=st.sampled_from(sorted(LAYOUTS)), seed=st.integers(0, 2**16), unit=st.booleans())
def test_state_dicts_of_dictionary_learning_are_read_as_its_classes_compute_them(tmp_path_factory, named, seed, unit) -> None:
    folder = state_dict_folder(named, tmp_path_factory.mktemp("sae"), seed, unit)
    sae = InferenceSAE.load(folder).to(torch.float64)
    x = golden_inputs(sae)
    latents, x_hat = DictionaryLearning().outputs(folder, x)
    assert agree(sae.encode(x), latents)
    assert agree(sae.decode(sae.encode(x)), x_hat)


def state_dict_folder(named: str, folder: Path, seed: int = 0, unit: bool = True) -> Path:
    """A folder of a class with its own random weights, as its trainer saves it."""
    sae, layout = make_sae("gated", d_sae=19, seed=seed, unit=unit), LAYOUTS[named]
    values = {name: value for name, value in vars(sae).items() if isinstance(value, Tensor)} | {"threshold": torch.full((19,), 0.2)}
    tensors = {theirs: values[ours].t().contiguous() if layout.linear else values[ours] for ours, theirs in layout.names.items()}
    if "TopK" in named:
        tensors |= {"k": torch.tensor(4, dtype=torch.int), "threshold": torch.tensor(0.3)}
    if "Matryoshka" in named:
        tensors["group_sizes"] = torch.tensor([5, 14])
    torch.save(tensors, folder / "ae.pt")
    trainer = {"dict_class": named, "lm_name": "toy", "layer": 1, "submodule_name": "resid_post_layer_1"} | ({"k": 4} if "TopK" in named else {})
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
    return folder


def test_provenance_of_dictionary_learning_is_kept_in_our_words(tmp_path: Path) -> None:
    metadata = InferenceSAE.load(state_dict_folder("BatchTopKSAE", tmp_path)).metadata
    assert metadata == {"model_name": "toy", "hook_name": "resid_post_layer_1", "hook_layer": 1, "k": 4, "architecture": "batchtopk"}


def test_a_silent_decoder_row_folds_to_a_silent_latent(tmp_path: Path) -> None:
    folder = written_by_saelens("topk", tmp_path, 0, rescale_acts_by_decoder_norm=True)
    weights = load_file(folder / "sae_weights.safetensors")
    weights["W_dec"][3] = 0
    save_file(weights, folder / "sae_weights.safetensors")
    sae = InferenceSAE.load(folder)
    assert not sae.encode(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)))[:, 3].any()


@pytest.mark.parametrize(
    ("old", "activation", "k"),
    [
        ({"activation_fn_str": "relu"}, "relu", None),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}}, "topk", 5),
        ({"activation_fn": "topk", "activation_fn_kwargs": {"k": 3}, "sae_lens_version": "5.9.1"}, "topk", 3),
        ({"normalize_activations": False, "finetuning_scaling_factor": True}, "relu", None),
    ],
)
def test_configurations_from_before_version_6_are_understood(old: dict[str, Any], activation: str, k: int | None, tmp_path: Path) -> None:
    folder = written_by_saelens("relu", tmp_path, 0)
    older = {"d_in": 8, "d_sae": 32, "dtype": "torch.float32", "hook_point": "blocks.3.hook_resid_pre", "hook_point_layer": 3, "model_name": "toy"}
    (folder / "cfg.json").write_text(json.dumps(older | old))
    sae = InferenceSAE.load(folder)
    assert (sae.activation, sae.k, sae.metadata["hook_name"], sae.metadata["hook_layer"]) == (activation, k, "blocks.3.hook_resid_pre", 3)


def test_half_precision_weights_are_read_in_float32(tmp_path: Path) -> None:
    folder = written_by_saelens("relu", tmp_path, 0, dtype="bfloat16")
    save_file({n: t.bfloat16() for n, t in load_file(folder / "sae_weights.safetensors").items()}, folder / "sae_weights.safetensors")
    assert InferenceSAE.load(folder).W_enc.dtype == torch.float32


def test_sparsify_takes_its_own_default_where_no_k_is_named(tmp_path: Path) -> None:
    Sparsify().write(make_sae("topk", d_sae=64), tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    del config["k"]
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    assert InferenceSAE.load(tmp_path).k == 32


# ------------------------------------------------------------------------------------------------ refusals


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


# ------------------------------------------------------------------------------------------------ the golden-output check


@pytest.mark.parametrize("form", FORMATS)
def test_the_golden_outputs_notice_a_changed_weight(form: str, tmp_path: Path) -> None:
    sae = make_sae("topk")
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        FORMATS[form].write(replace(sae, **{name: getattr(sae, name) * (1 + 1e-4)}), tmp_path)
        with pytest.raises(ExportError, match=r"within 1e-05 of the original's, found \d"):
            check(sae, FORMATS[form], tmp_path)
    FORMATS[form].write(replace(sae, k=3), tmp_path)
    with pytest.raises(ExportError):
        check(sae, FORMATS[form], tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_golden_inputs_make_latents_fire_and_none_is_undecided(kind: str) -> None:
    sae = make_sae(kind, d_model=16, d_sae=256).to(torch.float64)
    x = golden_inputs(sae)
    assert torch.equal(x, golden_inputs(sae))
    assert ((sae.encode(x) > 0).sum(1) > 0).all()
    nudged = sae.encode(x + 1e-7 * x.std() * torch.randn(x.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64))
    assert torch.equal(nudged > 0, sae.encode(x) > 0) or kind == "relu"
    assert TOLERANCE == 1e-5
