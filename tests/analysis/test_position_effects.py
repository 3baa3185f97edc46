"""The pattern over positions in a trained model vanishes with its position embeddings, and its loss rises."""

from __future__ import annotations

from pathlib import Path

import learned_positions as toy
import numpy as np
import pandas as pd
import pytest
import torch

from sae_pipeline.activations.position_embeddings import CONDITIONS
from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.analysis.position_effects import CURVE_COLUMNS, EFFECT_COLUMNS, TOKENS_KEPT, PositionEffects, token_rows
from sae_pipeline.metrics.positions.profiles import DECILE_COLUMNS
from sae_pipeline.metrics.positions.reading import PositionText, Reading, read

SAE = "MIX.L00.x02.topk"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SubjectModel:
    """Trained here on text that cannot be read without positions."""
    folder = tmp_path_factory.mktemp("learned")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    toy.train(folder)
    torch.set_num_threads(threads)
    return SubjectModel.load(str(folder))


@pytest.fixture(scope="module")
def text() -> PositionText:
    """Forty unseen contexts of twenty documents."""
    return PositionText.of(toy.corpus(40), tokens=10**6)


@pytest.fixture(scope="module")
def readings(model: SubjectModel, text: PositionText) -> dict[str, Reading]:
    """The text read under each condition, at the first block."""
    saes, hook = {SAE: toy.random_topk(32, 64, 8)}, model.hook_name("resid_post", 0)
    return {c: read(text, saes, model=model, hook=hook, condition=c, seed=0, batch_size=16) for c in CONDITIONS}


@pytest.fixture(scope="module")
def gathered(text: PositionText, readings: dict[str, Reading]) -> PositionEffects:
    effects = PositionEffects(text, evaluation_set="toy", samples=200, confidence=0.95, seed=0)
    for condition in CONDITIONS:
        effects.add(condition, readings[condition])
    return effects


@pytest.fixture(scope="module")
def table(gathered: PositionEffects) -> pd.DataFrame:
    """Effects by quantity, figure and condition."""
    return gathered.effects().set_index(["quantity", "figure", "condition"])


@pytest.mark.parametrize("condition", ["zero", "shuffle"])
def test_the_pattern_vanishes_without_positions_and_the_loss_rises(table: pd.DataFrame, condition: str) -> None:
    """Position explains at least a tenth of how active the latents are late in the context, then nothing; each with its interval."""
    intact, without = (table.loc["latent_mean", "position_share_late", c] for c in ("intact", condition))
    assert intact["low"] > 0.1
    assert abs(without["estimate"]) < 0.05
    assert without["high"] < intact["low"] / 2
    assert without["rise_high"] < -0.1
    loss = table.loc["cross_entropy", "mean", condition]
    assert loss["rise_low"] > 0.5
    assert loss["low"] > table.loc["cross_entropy", "mean", "intact"]["high"]


def test_the_intact_loss_is_that_of_the_model_alone(model: SubjectModel, text: PositionText, table: pd.DataFrame) -> None:
    tokens = text.corpus.tokens.long()
    losses = torch.nn.functional.cross_entropy(model.logits(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert table.loc["cross_entropy", "mean", "intact"]["estimate"] == pytest.approx(losses.item(), rel=1e-5)


def test_reconstructions_are_told_from_the_intact_model_by_a_paired_rise(
    table: pd.DataFrame, readings: dict[str, Reading], text: PositionText
) -> None:
    """Position by position the SAE's losses are its own; only the intact model is read with them."""
    row = table.loc["cross_entropy", "mean", "reconstructed"]
    intact, replaced = readings["intact"], readings["intact"].saes[SAE].losses
    assert intact.losses is not None
    assert replaced is not None
    mine = text.places.document >= 0
    assert row["rise"] == pytest.approx((replaced[mine] - intact.losses[mine]).mean())
    assert row["rise_low"] < row["rise"] < row["rise_high"]
    assert readings["zero"].saes[SAE].losses is None


def test_errors_of_the_sae_are_those_of_its_reconstruction(model: SubjectModel, text: PositionText, table: pd.DataFrame) -> None:
    sae = toy.random_topk(32, 64, 8)
    x = model.capture(text.corpus.tokens, [model.hook_name("resid_post", 0)])["blocks.0.hook_resid_post"][:, 1:].flatten(0, 1).double()
    wide = sae.to(torch.float64)
    errors = (x - wide.decode(wide.encode(x))).square().sum(1)
    assert table.loc["mse", "mean", "intact"]["estimate"] == pytest.approx(errors.mean().item(), rel=1e-5)
    assert table.loc["nmse", "mean", "intact"]["estimate"] == pytest.approx((errors.sum() / x.square().sum()).item(), rel=1e-5)


def test_curves_are_means_per_position_and_position_0_stands_apart(gathered: PositionEffects, readings: dict[str, Reading]) -> None:
    """BOS belongs to no document, so that its mean has no interval; what is not scored has no row."""
    curves = gathered.curves()
    assert list(curves.columns) == list(CURVE_COLUMNS)
    norm = curves[(curves["quantity"] == "activation_norm") & (curves["condition"] == "intact")]
    np.testing.assert_allclose(norm["mean"], readings["intact"].norm.mean(0))
    assert list(norm["tokens"]) == [40] * toy.CONTEXT_LENGTH
    assert norm["low"].isna().tolist() == [True] + [False] * (toy.CONTEXT_LENGTH - 1)
    assert ((norm["low"] <= norm["mean"]) & (norm["mean"] <= norm["high"]))[1:].all()
    losses = curves[(curves["quantity"] == "cross_entropy") & (curves["condition"] == "intact")]
    assert losses["position"].tolist() == list(range(1, toy.CONTEXT_LENGTH))


def test_a_reading_does_not_depend_on_the_size_of_its_batches(model: SubjectModel, text: PositionText, readings: dict[str, Reading]) -> None:
    hook = model.hook_name("resid_post", 0)
    for condition in CONDITIONS:
        again = read(text, {}, model=model, hook=hook, condition=condition, seed=0, batch_size=7)
        np.testing.assert_allclose(again.norm, readings[condition].norm, rtol=1e-5)


def test_every_effect_says_what_it_rests_on(gathered: PositionEffects) -> None:
    effects = gathered.effects()
    assert list(effects.columns) == list(EFFECT_COLUMNS)
    assert set(effects["tokens"]) == {40 * (toy.CONTEXT_LENGTH - 1)}
    assert set(effects["documents"]) == {20}
    assert effects.loc[effects["condition"] == "intact", ["rise", "rise_low", "rise_high"]].isna().all(axis=None)


def test_features_are_described_over_tokens_that_are_not_special(readings: dict[str, Reading], model: SubjectModel, text: PositionText) -> None:
    features = readings["intact"].saes[SAE].features()
    x = model.capture(text.corpus.tokens, [model.hook_name("resid_post", 0)])["blocks.0.hook_resid_post"][:, 1:].flatten(0, 1)
    latents = toy.random_topk(32, 64, 8).encode(x).double()
    np.testing.assert_allclose(features["mean"], latents.mean(0), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(features["std"], latents.std(0, correction=0), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(features["density"], (latents > 0).double().mean(0), atol=1e-3)
    busy = features.nlargest(1, "density").iloc[0]
    fired = latents[:, int(busy["latent"])]
    np.testing.assert_allclose(busy[list(DECILE_COLUMNS)].astype(float), np.quantile(fired[fired > 0], np.arange(1, 10) / 10), rtol=0.05)


def test_tokens_are_drawn_from_all_positions(readings: dict[str, Reading], text: PositionText) -> None:
    latents = readings["intact"].saes[SAE]
    rows = token_rows(text, latents)
    assert len(rows) == min(TOKENS_KEPT, 40 * (toy.CONTEXT_LENGTH - 1))
    assert set(rows["position"]) == set(range(1, toy.CONTEXT_LENGTH))
    assert set(zip(rows["mean"], rows["std"], strict=True)) <= set(zip(latents.latent_mean.ravel(), latents.latent_std.ravel(), strict=True))


def test_an_encoder_has_curves_and_no_losses(tiny_bert: Path) -> None:
    bert = SubjectModel.load(str(tiny_bert))
    corpus = toy.corpus(6)
    corpus.tokens = corpus.tokens % 20
    text = PositionText.of(corpus, tokens=100)
    assert text.contexts == 4
    effects = PositionEffects(text, evaluation_set="toy", samples=100, confidence=0.95, seed=0)
    for condition in CONDITIONS:
        reading = read(
            text, {SAE: toy.random_topk(32, 64, 8)}, model=bert, hook=bert.hook_name("resid_post", 1), condition=condition, seed=0, batch_size=4
        )
        assert reading.losses is None
        effects.add(condition, reading)
    assert "cross_entropy" not in set(effects.curves()["quantity"])
    assert set(effects.effects()["condition"]) == set(CONDITIONS)
