"""Random token ids, and latents that fire on them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from metrics_toys import random_sae

from sae_pipeline.errors import SubjectError
from sae_pipeline.metrics.latents.fake_features import fake_feature_ratio, random_token_activations, random_token_ids
from sae_pipeline.saes.inference import InferenceSAE


def _coordinates_sae(d_model: int) -> InferenceSAE:
    """One latent per coordinate, active where the coordinate is positive."""
    eye = torch.eye(d_model)
    return InferenceSAE(W_enc=eye, b_enc=torch.zeros(d_model), W_dec=eye, b_dec=torch.zeros(d_model), activation="relu")


def test_a_latent_is_fake_above_a_tenth_of_the_positions_and_not_at_it() -> None:
    """Of 20 positions latent 0 fires on 2 (a tenth), latent 1 on 3, latent 2 on none, latent 3 on all."""
    x = torch.zeros(20, 4)
    x[:2, 0], x[:3, 1], x[:, 3] = 1, 1e-6, 5
    fake = fake_feature_ratio(_coordinates_sae(4), x)
    assert fake.ratio == 2 / 4
    assert fake.latents.tolist() == [1, 3]
    assert fake.density.tolist() == [0.15, 1.0]
    assert (fake.positions, fake.cut) == (20, 0.0)


def test_without_positions_there_is_no_ratio() -> None:
    fake = fake_feature_ratio(_coordinates_sae(4), torch.empty(0, 4))
    assert fake.ratio is None
    assert fake.latents.tolist() == []


@given(st.sampled_from(["relu", "topk", "jumprelu", "gated"]), st.lists(st.integers(-20, 20), min_size=6, max_size=6), st.integers(0, 100))
def test_scaling_activations_against_the_decoder_changes_nothing(activation: str, exponents: list[int], seed: int) -> None:
    """Powers of two, which do not round: latents 2^c times as large with decoder rows 2^-c times as long reconstruct the same."""
    generator = torch.Generator().manual_seed(seed)
    sae = random_sae(4, 6, activation, generator)
    if activation == "topk":  # a token's latents are ranked against each other
        exponents = exponents[:1] * 6
    scale = 2.0 ** torch.tensor(exponents)
    if activation == "gated":
        sae = replace(sae, r_mag=torch.randn(6, generator=generator), b_mag=torch.randn(6, generator=generator))
    scaled = replace(
        sae,
        W_enc=sae.W_enc * scale,
        b_enc=sae.b_enc * scale,
        W_dec=sae.W_dec / scale[:, None],
        threshold=None if sae.threshold is None else sae.threshold * scale,
        b_mag=None if sae.b_mag is None else sae.b_mag * scale,
    )
    x = torch.randn(50, 4, generator=generator)
    assert torch.equal(sae.decode(sae.encode(x)), scaled.decode(scaled.encode(x)))
    before, after = fake_feature_ratio(sae, x), fake_feature_ratio(scaled, x)
    assert before.ratio == after.ratio
    assert torch.equal(before.latents, after.latents)
    assert torch.equal(before.density, after.density)


def test_random_contexts_open_with_bos_and_hold_every_ordinary_id_equally_often() -> None:
    """BOS may be id 0, and special ids are drawn nowhere else; frequencies stay within five standard deviations."""
    ids = random_token_ids(12, {0, 5, 11}, contexts=900, context_length=11, bos_id=0, seed=3)
    assert ids.shape == (900, 11)
    assert ids.dtype == torch.int64
    assert (ids[:, 0] == 0).all()
    counts = torch.bincount(ids[:, 1:].flatten(), minlength=12)
    assert counts[[0, 5, 11]].tolist() == [0, 0, 0]
    expected = 9000 / 9
    assert ((counts[counts > 0] - expected).abs() < 5 * (expected * (1 - 1 / 9)) ** 0.5).all()


def test_random_contexts_depend_on_the_seed_alone_and_more_of_them_extend_fewer() -> None:
    few, many, other = (random_token_ids(50, {0}, contexts, 8, 0, seed) for contexts, seed in ((3, 1), (7, 1), (3, 2)))
    assert torch.equal(few, many[:3])
    assert not torch.equal(few, other)


def test_a_vocabulary_of_special_tokens_alone_is_refused() -> None:
    with pytest.raises(SubjectError, match="not special"):
        random_token_ids(2, {0, 1}, contexts=1, context_length=4, bos_id=0, seed=0)


def test_activations_of_random_tokens_leave_bos_out_whatever_the_batch_size() -> None:
    """A model whose activation is the token id itself."""

    class Echo:
        def capture(self, tokens: torch.Tensor, hooks: list[str]) -> dict[str, torch.Tensor]:
            return {hooks[0]: tokens[..., None].float().repeat(1, 1, 2)}

    ids = random_token_ids(30, {0}, contexts=5, context_length=4, bos_id=0, seed=0)
    for batch_size in (1, 2, 5):
        found = random_token_activations(Echo(), "site", ids, batch_size)  # type: ignore[arg-type]
        assert torch.equal(found, ids[:, 1:].flatten()[:, None].float().repeat(1, 2))
