"""The concept study of one hook point on text with planted latents: every table says what was planted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from concept_toys import D_MODEL, PLANTED, VOCABULARY, NumberTokenizer, embeddings, planted_sae, text

from sae_pipeline.concepts.direction_tables import OfSets, Written
from sae_pipeline.concepts.directions import PromptTokens
from sae_pipeline.concepts.measure import COLUMNS, StudiedSae, measure_concepts
from sae_pipeline.concepts.text import read_sets
from sae_pipeline.saes.inference import InferenceSAE


def random_sae() -> InferenceSAE:
    """As wide as the planted one, without a latent that means anything."""
    rows = torch.nn.functional.normalize(torch.randn(80, D_MODEL, generator=torch.Generator().manual_seed(9)), dim=1)
    return InferenceSAE(rows.T.contiguous(), torch.zeros(80), rows, torch.zeros(D_MODEL), "relu")


def prompts(shift: torch.Tensor, seed: int, count: int = 12) -> PromptTokens:
    noise = 0.05 * torch.randn(count, D_MODEL, generator=torch.Generator().manual_seed(seed))
    return PromptTokens(noise + shift, torch.arange(count))


def measure(folder: Path, **changed: Any) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    corpus, _ = mix = text(300, 3, "train")
    counts = np.bincount(corpus.tokens[corpus.document >= 0].numpy(), minlength=VOCABULARY)
    settings: dict[str, Any] = {
        "sets": read_sets({"one": text(120, 4, "one"), "two": text(60, 5, "two")}, 100_000),
        "saes": {
            "A.planted": StudiedSae("A", 1.25, "topk", planted_sae),
            "B.random": StudiedSae("B", 1.25, "topk", random_sae),
            "B.other": StudiedSae("B", 1.25, "relu", random_sae),
        },
        "mixes": dict.fromkeys("AB", (mix[0], counts)),
        "tokenizer": NumberTokenizer(VOCABULARY),
        "keywords": {"three": ["3"], "never": ["999"]},
        "directions": {
            "made": Written(prompts(2 * embeddings()[3], 6), prompts(torch.zeros(D_MODEL), 7)),
            "sets": OfSets("one", "two"),
            "nothing": Written(prompts(torch.zeros(D_MODEL), 8), prompts(torch.zeros(D_MODEL), 8)),
            "few": Written(prompts(2 * embeddings()[3], 6, count=5), prompts(torch.zeros(D_MODEL), 7)),
        },
        "token_concepts": 40,
        "min_occurrences": 8,
        "f1_cut": 0.5,
        "confidence": 0.95,
        "seed": 0,
    }
    folder.mkdir(exist_ok=True)
    summary = measure_concepts(folder, **(settings | changed))
    return summary, {name: pd.read_parquet(folder / f"{name}.parquet") for name in COLUMNS}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    return measure(tmp_path_factory.mktemp("planted"))


def test_the_planted_tokens_have_their_latents_and_no_others_do(measured: tuple[dict[str, Any], dict[str, pd.DataFrame]]) -> None:
    rows = measured[1]["concept_features"]
    planted = rows[(rows["sae_id"] == "A.planted") & (rows["kind"] == "token")].set_index("token")
    assert len(planted) > PLANTED + 8
    assert set(planted.index[planted["has_feature"]]) == set(range(1, PLANTED + 1))
    assert [planted.loc[token, "latent"] for token in range(1, PLANTED + 1)] == list(range(PLANTED))
    assert (planted.loc[range(1, PLANTED + 1), ["f1", "precision", "recall", "youden"]] == 1).all().all()
    # Of latents that fire on half of the vocabulary one is right about a token that is a fifth of the text.
    assert set(rows[(rows["sae_id"] == "B.random") & rows["has_feature"]]["token"]) <= {1, 2}


def test_words_are_judged_like_tokens_and_those_that_never_occur_are_left_out(measured: tuple[dict[str, Any], dict[str, pd.DataFrame]]) -> None:
    rows = measured[1]["concept_features"]
    words = rows[(rows["sae_id"] == "A.planted") & (rows["kind"] == "keyword")]
    assert words[["concept", "latent", "has_feature"]].to_numpy().tolist() == [["three", 2, True]]
    token = rows[(rows["sae_id"] == "A.planted") & (rows["token"] == 3)].iloc[0]
    assert (
        words[["frequency", "occurrences", "judged_occurrences"]].iloc[0].tolist()
        == token[["frequency", "occurrences", "judged_occurrences"]].tolist()
    )
    assert measured[0]["keyword_concepts"] == 1


def test_frequent_tokens_have_features_and_the_fit_says_where_it_ends(measured: tuple[dict[str, Any], dict[str, pd.DataFrame]]) -> None:
    """Tokens 1 to 12 of frequencies falling with the id: a rank of 12 separates, up to the noise of the counts."""
    summary, frames = measured
    fit = frames["concept_fits"].query("sae_id == 'A.planted' and kind == 'token'").iloc[0]
    assert (fit["concepts"], fit["with_feature"]) == (summary["token_concepts"], PLANTED)
    assert fit["low"] > 5
    assert fit["youden_with_feature"] >= PLANTED
    share = 1 / np.arange(1, VOCABULARY) / (1 / np.arange(1, VOCABULARY)).sum() * 1e6
    assert share[PLANTED + 1] < fit["frequency_half"] < share[PLANTED - 2]
    assert fit["half_low"] < fit["frequency_half"] < fit["half_high"]


def test_the_tail_is_told_by_rank(measured: tuple[dict[str, Any], dict[str, pd.DataFrame]]) -> None:
    bins = measured[1]["tail_recall"].query("sae_id == 'A.planted'")
    assert bins["rank_low"].tolist() == [1, 10]
    assert bins["share"].iloc[0] == 1.0
    assert bins["with_feature"].sum() == PLANTED


def test_where_some_tokens_are_drawn_the_share_by_rank_makes_up_for_the_draw(tmp_path: Path) -> None:
    """The planted tokens are the most frequent of their ranks, so that more of the draw than of all tokens have a feature."""
    summary, drawn = measure(tmp_path, token_concepts=16)
    tail = drawn["tail_recall"].query("sae_id == 'A.planted' and rank_low == 10").iloc[0]
    assert summary["token_concepts"] == 16
    assert 0 < tail["low"] < tail["share"] < 0.85 * tail["with_feature"] / tail["tokens"]


def test_a_planted_direction_takes_one_latent_and_is_compared_with_the_same_arm_alone(
    measured: tuple[dict[str, Any], dict[str, pd.DataFrame]],
) -> None:
    summary, frames = measured
    fits = frames["direction_fits"].query("direction == 'made' and latents == 1 and method == 'matching_pursuit'").set_index("sae_id")
    assert fits.loc["A.planted", "cosine"] > 0.98
    assert fits.loc["B.random", "cosine"] < 0.6
    assert fits["against"].fillna("").to_dict() == {"A.planted": "", "B.random": "A.planted", "B.other": ""}
    assert fits.loc["B.random", "difference_high"] < 0
    nearest = frames["direction_latents"].query("direction == 'made' and sae_id == 'A.planted'").iloc[0]
    assert nearest["latent"] == 2
    assert nearest["low"] <= nearest["max_decoder_cosine"] <= nearest["high"]
    assert summary["directions"] == ["made", "sets"]


def test_two_sides_that_do_not_differ_or_have_too_few_prompts_are_no_direction(measured: tuple[dict[str, Any], dict[str, pd.DataFrame]]) -> None:
    rows = measured[1]["directions"].set_index("direction")
    assert rows.loc[["nothing", "few"], ["norm", "reliability"]].isna().all().all()
    assert rows.loc["made", "norm"] == pytest.approx(2.0, abs=0.1)
    assert rows.loc["made", "reliability"] > 0.98
    assert rows.loc["sets", ["positive", "negative"]].tolist() == [120, 60]
    assert rows.loc["sets", "source"] == "documents of one and two"


def test_a_study_of_neither_concepts_nor_directions_has_empty_tables_of_the_same_types(
    tmp_path: Path, measured: tuple[dict[str, Any], dict[str, pd.DataFrame]]
) -> None:
    _, empty = measure(tmp_path, token_concepts=0, keywords={}, directions={})
    for name, frame in empty.items():
        assert frame.empty
        assert frame.dtypes.astype(str).to_dict() == measured[1][name].dtypes.astype(str).to_dict()


def test_equal_arguments_give_equal_bytes_and_which_saes_are_beside_does_not_matter(tmp_path: Path) -> None:
    alone = {"A.planted": StudiedSae("A", 1.25, "topk", planted_sae)}
    measure(tmp_path / "a", saes=alone)
    measure(tmp_path / "b", saes=alone)
    assert all((tmp_path / "a" / f"{name}.parquet").read_bytes() == (tmp_path / "b" / f"{name}.parquet").read_bytes() for name in COLUMNS)
    _, beside = measure(tmp_path / "c")
    _, only = measure(tmp_path / "a", saes=alone)
    for name in ("concept_features", "direction_fits"):
        pd.testing.assert_frame_equal(only[name], beside[name][beside[name]["sae_id"] == "A.planted"].reset_index(drop=True))
