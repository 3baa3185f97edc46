"""What pairs of one seed share because they began alike is told apart from what they learned, and the claims heed it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import pytest

from sae_pipeline.analysis.claims.registry import CLAIMS
from sae_pipeline.analysis.contrasts import Evidence
from sae_pipeline.analysis.shared_start import SharedStart, shared_start
from sae_pipeline.analysis.tables import StudyTables
from sae_pipeline.analysis.verdicts import ALL_LAYERS, Test
from sae_pipeline.study.schema import Study

MakeStudy = Callable[..., Study]
MakeTables = Callable[..., StudyTables]
SAES = pd.DataFrame({"sae_id": ["a0", "b0", "a1", "wide"], "init_seed": [0, 0, 1, 0], "d_sae": [4, 4, 4, 8]})


def tables(*drawn: tuple[str, str, str, list[int], list[float]]) -> dict[str, pd.DataFrame]:
    """Tables of ordered pairs: ids, factor, the partner of latents 0, 1, … and their cosines; the threshold is 0.7."""
    matches = [
        {"sae_id": one, "other_sae_id": other, "factor": factor, "threshold": 0.7, "side": side} for one, other, factor, *_ in drawn for side in "ed"
    ]
    near = [
        {"sae_id": one, "other_sae_id": other, "latent": latent, "other_latent": partner, "cosine": cosine}
        for one, other, _, partners, cosines in drawn
        for latent, (partner, cosine) in enumerate(zip(partners, cosines, strict=True))
    ]
    return {"matches": pd.DataFrame(matches), "feature_neighbours": pd.DataFrame(near)}


def test_latents_found_at_their_own_index_are_counted_among_those_found() -> None:
    """Of 4 + 1 latents above the threshold three are where they began; one at the threshold is not found."""
    drawn = tables(("a0", "b0", "mix", [0, 1, 3, 3], [0.9, 0.8, 0.8, 0.71]), ("b0", "a0", "mix", [0, 1, 2, 2], [0.7, 0.2, 0.1, 0.9]))
    assert shared_start(drawn, SAES) == SharedStart(share=3 / 5, chance=1 / 4, latents=5, pairs=1)


def test_pairs_that_began_apart_are_left_out_and_so_are_widths_and_budgets() -> None:
    found = [0, 1, 2, 3], [0.9] * 4
    drawn = tables(
        ("a0", "b0", "mix", [1, 0, 3, 2], [0.9] * 4), ("a0", "a1", "seed", *found), ("a1", "b0", "mix", *found), ("a0", "wide", "expansion", *found),
        ("b0", "a0", "tokens", *found), ("a0", "unknown", "mix", *found),
    )  # fmt: skip
    assert shared_start(drawn, SAES) == SharedStart(share=0, chance=1 / 4, latents=4, pairs=1)


def test_a_claim_asks_for_the_factors_it_is_about() -> None:
    drawn = tables(("a0", "b0", "mix", [1, 0], [0.9, 0.9]), ("b0", "a0", "architecture", [0, 1], [0.9, 0.9]))
    for factors, share in ((None, 0.5), (["mix"], 0.0), (["architecture"], 1.0)):
        start = shared_start(drawn, SAES, factors)
        assert start is not None
        assert start.share == share
        assert start.decides == (share > 0.5)


def test_what_cannot_be_told_is_none() -> None:
    drawn = tables(("a0", "b0", "mix", [0, 1], [0.9, 0.9]))
    for gone in (
        {"matches": drawn["matches"]},
        drawn | {"feature_neighbours": drawn["feature_neighbours"].iloc[:0]},
        drawn | {"feature_neighbours": drawn["feature_neighbours"].assign(cosine=0.7)},
    ):
        assert shared_start(gone, SAES) is None
    assert shared_start(drawn, SAES.assign(init_seed=np.arange(4))) is None


def test_random_partners_share_an_index_as_often_as_chance_has_it() -> None:
    """512 latents matched at random: one in 512, within four standard deviations of a binomial."""
    generator, n = np.random.default_rng(5), 512
    saes = pd.DataFrame({"sae_id": [f"m{k}" for k in range(12)], "init_seed": 0, "d_sae": n})
    drawn = [(a, b, "mix", generator.integers(0, n, n).tolist(), [0.9] * n) for a in saes["sae_id"] for b in saes["sae_id"] if a != b]
    start = shared_start(tables(*drawn), saes)
    assert start is not None
    assert (start.chance, start.latents, start.pairs) == (1 / n, 132 * n, 66)
    assert start.share == pytest.approx(1 / n, abs=4 * np.sqrt(1 / n / (132 * n)))


# ------------------------------------------------------------------------------------------------------------------ claims


@pytest.fixture
def evidence_and_study(make_study: MakeStudy, make_tables: MakeTables) -> tuple[Evidence, Study]:
    study = make_study(samples=100, activations={"layers": [1], "tokens": 400_000})
    return Evidence.of(make_tables(study, lambda *_: 0.6, seeds=(0, 1, 2), documents=5), study), study


def started(saes: pd.DataFrame, kept: float, noise: float = 0.02) -> dict[str, pd.DataFrame]:
    """Tables of mixes that share 0.8 and seeds that share 0.1, where a share ``kept`` of what mixes share is at its own index."""
    generator = np.random.default_rng(2)
    rows = saes.to_dict("records")
    matches, assigned, near = [], [], []
    for one in rows:
        for other in rows:
            differing = [
                factor for column, factor in (("mix", "mix"), ("init_seed", "seed"), ("expansion", "expansion")) if one[column] != other[column]
            ]
            if differing not in (["mix"], ["seed"]):
                continue
            ids = {"sae_id": one["sae_id"], "other_sae_id": other["sae_id"], "factor": differing[0], "layer": 1, "site": "", "population": "alive"}
            ratio = {"mix": 0.8, "seed": 0.1}[differing[0]]
            for unit, side, shift in (
                ("feature", "decoder", 0.0),
                ("feature", "encoder", -0.05),
                ("neuron", "decoder", 0.0),
                ("neuron", "encoder", 0.1),
            ):
                share = ratio + shift + noise * generator.normal()
                matches.append(ids | {"side": side, "unit": unit, "threshold": 0.7, "match_ratio": share, "chance_match_ratio": 0.0})
            assigned.append(ids | {"shared_feature_ratio": ratio + noise * generator.normal()})
            near += [
                {key: ids[key] for key in ("sae_id", "other_sae_id")}
                | {"latent": n, "other_latent": n if n < round(20 * kept) else n + 1, "cosine": 0.9}
                for n in range(20)
            ]
    return {"matches": pd.DataFrame(matches), "one_to_one": pd.DataFrame(assigned), "feature_neighbours": pd.DataFrame(near)}


def rows_of(name: str, found: tuple[Evidence, Study], matching: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.DataFrame([vars(row) for row in CLAIMS[name](Test(name, *found, matching))]).set_index("scope")


@pytest.mark.parametrize("name", ["S2-6", "S3-30", "S3-39"])
def test_where_most_is_the_start_the_claims_are_not_testable_and_say_what_to_do(name: str, evidence_and_study: tuple[Evidence, Study]) -> None:
    rows = rows_of(name, evidence_and_study, started(evidence_and_study[0].tables.saes, 0.95))
    assert rows["verdict"].to_dict() == {ALL_LAYERS: "not_testable"}
    assert "95.0 % are found at their own index" in rows.loc[ALL_LAYERS, "note"]
    assert "train longer, or compare SAEs of different seeds" in rows.loc[ALL_LAYERS, "note"]


@pytest.mark.parametrize(("name", "verdict"), [("S2-6", "contradicted"), ("S3-30", "supported"), ("S3-39", "contradicted")])
def test_below_the_cut_the_verdict_stands_and_every_row_states_the_figure(
    name: str, verdict: str, evidence_and_study: tuple[Evidence, Study]
) -> None:
    rows = rows_of(name, evidence_and_study, started(evidence_and_study[0].tables.saes, 0.5))
    assert rows.loc[ALL_LAYERS, "verdict"] == verdict
    assert rows["note"].str.contains("50.0 % are found at their own index", regex=False).all()


@pytest.mark.parametrize("name", ["S2-6", "S3-30", "S3-39"])
def test_without_neighbours_the_claims_are_as_they_were(name: str, evidence_and_study: tuple[Evidence, Study]) -> None:
    matching = started(evidence_and_study[0].tables.saes, 0.5)
    with_them = rows_of(name, evidence_and_study, matching)
    without = rows_of(name, evidence_and_study, {key: frame for key, frame in matching.items() if key != "feature_neighbours"})
    assert without.drop(columns="note").equals(with_them.drop(columns="note"))
    assert not without["note"].str.contains("own index").any()


def test_a_claim_that_lacks_pairs_says_that_and_not_the_start(evidence_and_study: tuple[Evidence, Study]) -> None:
    matching = started(evidence_and_study[0].tables.saes, 0.95)
    matching["one_to_one"] = matching["one_to_one"].query("factor == 'mix'")
    assert "that differ in the seed alone" in rows_of("S2-6", evidence_and_study, matching).loc[ALL_LAYERS, "note"]
