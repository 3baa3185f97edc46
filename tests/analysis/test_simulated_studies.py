"""Two hundred studies with a planted effect, and two hundred with none: verdicts and intervals keep what they promise.

The intervals are nominal 95 %. Of 200 studies a perfect interval holds the truth in 190 and, with a chance of 99.7 %, in no
fewer than 181 and no more than 199: three binomial standard deviations of 3.08 studies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from sae_pipeline.analysis import claims
from sae_pipeline.analysis.claims.registry import CLAIMS
from sae_pipeline.analysis.contrasts import Evidence
from sae_pipeline.analysis.tables import StudyTables
from sae_pipeline.analysis.verdicts import ALL_LAYERS, Finding, Test
from sae_pipeline.study.schema import Study

STUDIES = 200
SLACK = 3 * (STUDIES * 0.05 * 0.95) ** 0.5
MakeStudy = Callable[..., Study]
MakeTables = Callable[..., StudyTables]


@pytest.fixture
def small(make_study: MakeStudy) -> Study:
    """One layer, one width and two mixes, so that a study is quick to make."""
    return make_study(
        {"PRE": {"prose": 0.8, "chat": 0.2}, "INS": {"prose": 0.2, "chat": 0.8}},
        samples=300,
        activations={"layers": [1], "tokens": 400_000},
        saes={"expansions": [4], "arms": [{"architecture": "topk", "k": 16, "seeds": [0, 1, 2]}]},
    )


def advantage_of(study: Study, tables: StudyTables) -> Finding:
    return next(CLAIMS["S0-13"](Test("S0-13", Evidence.of(tables, study), study)))


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.05, 0.0])
def test_the_in_domain_advantage_lies_in_its_interval_as_often_as_stated(small: Study, make_tables: MakeTables, effect: float) -> None:
    """A slope of ``effect`` per unit of share makes a difference of differences of 2 · 0.6 · effect."""

    def truth(sae: Mapping[str, Any], name: str) -> float:
        return 0.6 + effect * sae[f"share_{name}"]

    rows = [advantage_of(small, make_tables(small, truth, seeds=(0, 1, 2), documents=40, seed_noise=0.005, draw=draw)) for draw in range(STUDIES)]
    held = sum(row.low <= 1.2 * effect <= row.high for row in rows)
    assert abs(held - 0.95 * STUDIES) <= SLACK
    supported, contradicted = (sum(row.verdict == verdict for row in rows) for verdict in ("supported", "contradicted"))
    if effect:
        assert supported == STUDIES
    else:
        assert supported + contradicted <= 0.05 * STUDIES + SLACK


@pytest.mark.slow
def test_studies_without_any_effect_rarely_have_a_claim_confirmed_or_contradicted(make_study: MakeStudy, make_tables: MakeTables) -> None:
    """All claims about text, width, budget and depth at once, in forty studies: at most one in twenty, and three deviations, by chance."""
    study = make_study(samples=200, saes={"expansions": [4, 8], "arms": [{"architecture": "topk", "k": 16, "seeds": [0, 1]}]})
    moved = 0
    for draw in range(40):
        tables = make_tables(study, lambda *_: 0.6, tokens=(100_000, 200_000), documents=30, seed_noise=0.01, draw=draw)
        found = claims.find(Evidence.of(tables, study), study)
        # Of the other claims, one says that budgets differ little, which is true here, and the rest need what the study lacks.
        heads = found[(found["scope"] == ALL_LAYERS) & found["id"].isin(["S0-13", "S0-14", "S0-15", "S0-17", "S0-18", "S0-22", "S0-23"])]
        moved += bool(heads["verdict"].isin(["supported", "contradicted"]).any())
    assert moved <= 0.05 * 40 + 3 * (40 * 0.05 * 0.95) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.3, 0.0])
def test_the_first_place_of_the_text_is_found_where_it_is_planted_and_not_in_noise(
    make_study: MakeStudy, make_tables: MakeTables, effect: float
) -> None:
    """Thirty studies of five mixes against two widths: the mix takes up noise with four degrees of freedom, the width with one."""
    shares = {"A": 1.0, "B": 0.7, "C": 0.5, "D": 0.3, "E": 0.0}
    study = make_study(
        {name: {source: part for source, part in (("prose", share), ("chat", 1 - share)) if part} for name, share in shares.items()},
        samples=200,
        activations={"layers": [1], "tokens": 400_000},
        saes={"expansions": [4, 8], "arms": [{"architecture": "topk", "k": 16, "seeds": [0, 1]}]},
    )
    verdicts = []
    for draw in range(30):
        tables = make_tables(study, lambda sae, name: 0.4 + effect * sae[f"share_{name}"], documents=30, seed_noise=0.01, draw=draw)
        verdicts.append(next(CLAIMS["S0-23"](Test("S0-23", Evidence.of(tables, study), study))).verdict)
    if effect:
        assert verdicts.count("supported") == 30
    else:
        assert 30 - verdicts.count("inconclusive") <= 0.05 * 30 + 3 * (30 * 0.05 * 0.95) ** 0.5
