"""Formats of other libraries: what is written is read as the same function, and what is read is folded exactly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_saes import KINDS, edit, make_sae, state_dict_folder, written_by_saelens
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_pipeline.errors import ExportError
from sae_pipeline.saes.formats import FORMATS, recognised
from sae_pipeline.saes.formats.dictionary_learning import LAYOUTS, DictionaryLearning
from sae_pipeline.saes.formats.golden import TOLERANCE, check, golden_inputs
from sae_pipeline.saes.formats.saelens import SAELens
from sae_pipeline.saes.formats.sparsify import Sparsify
from sae_pipeline.saes.inference import InferenceSAE

SHAPES = [(8, 32), (8, 19), (8, 5), (3, 1)]
"""Overcomplete, not a multiple, undercomplete, a single latent."""


def inputs(sae: InferenceSAE) -> Tensor:
    return golden_inputs(sae.to(torch.float64)).float()


def agree(found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> bool:
    """Within a tolerance relative to the largest value."""
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max().clamp_min(1e-30))


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
