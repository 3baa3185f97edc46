"""Inference rules by hand."""

from __future__ import annotations

import torch

from sae_pipeline.saes.inference import InferenceSAE


def small(activation: str, **rule) -> InferenceSAE:
    """Two inputs, three latents with pre-activations (x0, x1 + 1, -x0) for b_dec = 0."""
    return InferenceSAE(
        W_enc=torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]),
        b_enc=torch.tensor([0.0, 1.0, 0.0]),
        W_dec=torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]),
        b_dec=torch.tensor([0.0, 0.0]),
        activation=activation,
        **rule,
    )


X = torch.tensor([[2.0, 0.5], [-3.0, -4.0]])  # pre-activations (2, 1.5, -2) and (-3, -3, 3)


def test_relu_keeps_what_is_positive():
    assert small("relu").encode(X).tolist() == [[2.0, 1.5, 0.0], [0.0, 0.0, 3.0]]


def test_jumprelu_keeps_what_exceeds_the_threshold_unshrunk():
    sae = small("jumprelu", threshold=torch.tensor([1.9, 1.5, 0.0]))
    assert sae.encode(X).tolist() == [[2.0, 0.0, 0.0], [0.0, 0.0, 3.0]]  # 1.5 > 1.5 is false


def test_topk_keeps_k_and_never_a_negative_one():
    assert small("topk", k=1).encode(X).tolist() == [[2.0, 0.0, 0.0], [0.0, 0.0, 3.0]]
    assert small("topk", k=2).encode(X).tolist() == [[2.0, 1.5, 0.0], [0.0, 0.0, 3.0]]


def test_decoder_bias_is_taken_from_the_input_and_added_to_the_output():
    sae = small("relu")
    shifted = InferenceSAE(sae.W_enc, sae.b_enc, sae.W_dec, torch.tensor([1.0, -1.0]), "relu")
    assert shifted.encode(X + shifted.b_dec).tolist() == sae.encode(X).tolist()
    assert shifted.decode(torch.tensor([[2.0, 1.0, 0.5]])).tolist() == [[2.5, 0.0]]


def test_a_gated_latent_is_as_large_as_its_magnitude_where_its_gate_is_open():
    log2 = torch.tensor(2.0).log().repeat(3)
    sae = small("gated", r_mag=log2, b_mag=torch.tensor([0.0, -1.0, -7.0]))
    # Projections (2, 0.5, -2) and (-3, -4, 3); gates add (0, 1, 0); magnitudes are twice the projection plus b_mag.
    assert sae.encode(X).tolist() == [[4.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert sae.encode(torch.tensor([[-4.0, 1.0]])).tolist() == [[0.0, 1.0, 1.0]]


def test_an_sae_is_stored_as_a_saelens_folder(tmp_path):
    small("topk", k=2, metadata={"hook_name": "blocks.1.hook_resid_post"}).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    loaded = InferenceSAE.load(tmp_path)
    assert (loaded.d_model, loaded.d_sae, loaded.activation, loaded.k) == (2, 3, "topk", 2)
    assert loaded.metadata["hook_name"] == "blocks.1.hook_resid_post"
