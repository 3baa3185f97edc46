"""Claims about which features two SAEs share: by side of the weights, by layer, by the factor they differ in, and by width.

Figures are of pairs of SAEs that differ in one factor alone, on alive latents where the tables know them. Their noise is
that of the SAEs (:mod:`sae_pipeline.analysis.pairwise`): pairs that share an SAE vary together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import wraps

import numpy as np
import pandas as pd

from sae_pipeline.analysis.claims.registry import claim
from sae_pipeline.analysis.factor_effects import at_equal_settings, difference, settings, unordered
from sae_pipeline.analysis.pairwise import PairEstimate, pair_estimate, pair_mean
from sae_pipeline.analysis.shared_start import shared_start
from sae_pipeline.analysis.tables import DESIGN, regime
from sae_pipeline.analysis.verdicts import ALL_LAYERS, Finding, Test, listed, verdict_of

IDS = ["sae_id", "other_sae_id"]
NO_MATCHING = "needs tables of matched features, which a study file asks for with `matching: {}`"
ONE_KIND = "needs pairs of SAEs that differ in nothing but {}, found none"

OnPairs = Callable[[Test, str, pd.DataFrame], Iterator[Finding]]


def drawn_from(table: str, sentence: str) -> Callable[[OnPairs], Callable[[Test], Iterator[Finding]]]:
    """A claim on one matching table, by name, in a sentence; the function gets both, and is not asked where nothing was matched."""

    def drawn(on_pairs: OnPairs) -> Callable[[Test], Iterator[Finding]]:
        @wraps(on_pairs)
        def test_it(test: Test) -> Iterator[Finding]:
            pairs = _table(test, table)
            if pairs is None:
                yield test.not_testable(sentence, NO_MATCHING)
            else:
                yield from on_pairs(test, sentence, pairs)

        return test_it

    return drawn


def away_from_the_start(*factors: str) -> Callable[[OnPairs], OnPairs]:
    """A claim on what was learned, untested where pairs of one seed mostly share their start, which its rows state otherwise.

    Args:
        factors: those whose pairs are asked for their start; none named, as :func:`shared_start` has it.
    """

    def judged(on_pairs: OnPairs) -> OnPairs:
        @wraps(on_pairs)
        def test_it(test: Test, sentence: str, pairs: pd.DataFrame) -> Iterator[Finding]:
            rows = list(on_pairs(test, sentence, pairs))
            start = shared_start(test.matching or {}, test.evidence.tables.saes, factors or None)
            if start is None or all(row.verdict == "not_testable" for row in rows):
                yield from rows
            elif start.decides:
                yield test.not_testable(sentence, f"{start.sentence}; {start.remedy}")
            else:
                yield from (row if row.verdict == "not_testable" else replace(row, note=f"{row.note}; {start.sentence}") for row in rows)

        return test_it

    return judged


@claim("S2-6")
@drawn_from("one_to_one", "Two SAEs of different seeds share more features than two of different training mixes.")
@away_from_the_start("mix")
def dataset_over_seed(test: Test, sentence: str, pairs: pd.DataFrame) -> Iterator[Finding]:
    """Another data set changes more features than another seed."""
    of = settings(test.evidence.design)
    pairs = at_equal_settings(pairs.dropna(subset=["shared_feature_ratio"]), "seed", "mix", of)
    if pairs.empty:
        yield test.not_testable(
            sentence, "needs, at one setting, pairs that differ in the seed alone and pairs that differ in the mix alone, found none"
        )
        return
    for scope, here in _scopes(test, pairs):
        figure = difference(here, "shared_feature_ratio", "seed", of, test.evidence.confidence)
        counts = here["factor"].value_counts()
        yield _row(
            test, sentence, scope, here, figure,
            f"shared feature ratio (one-to-one, decoder, {_population(here)}) of {counts['seed']} pairs that differ in the seed minus of {counts['mix']} that differ in the mix",
        )  # fmt: skip


@claim("S3-30")
@drawn_from("matches", "Features match more by their decoder directions, neurons more by their encoder weights.")
@away_from_the_start()
def decoder_over_encoder(test: Test, sentence: str, matches: pd.DataFrame) -> Iterator[Finding]:
    """Features match more in the decoder, neurons more in the encoder."""
    if matches.empty:
        yield test.not_testable(sentence, "found no pair of SAEs that differ in one factor alone")
        return
    both = unordered(matches).pivot(index=["layer", "factor", "unit", *IDS], columns="side", values="match_ratio").dropna().reset_index()
    heads, details = [], []
    for unit, sides in (("feature", ("decoder", "encoder")), ("neuron", ("encoder", "decoder"))):
        for scope, here in _scopes(test, both[both["unit"] == unit]):
            figure = pair_mean((here[sides[0]] - here[sides[1]]).tolist(), here[IDS], test.evidence.confidence)
            named = f"{scope}, {unit}s"
            row = _row(
                test, sentence, named, here, figure, f"match ratio of {unit}s by the {sides[0]} minus by the {sides[1]}, both directions averaged"
            )
            details.append(row)
            heads += [(f"{unit}s", row)] if scope == ALL_LAYERS else []
    if len(heads) < 2:
        lacking = listed([unit for unit in ("features", "neurons") if unit not in dict(heads)])
        yield test.not_testable(
            sentence,
            f"needs features and neurons matched by their encoders as well as by their decoders, found no such {lacking}; neurons are matched at equal widths",
        )
    else:
        yield test.all_of(sentence, ALL_LAYERS, heads)
    yield from details


@claim("S3-38")
@drawn_from("layer_matches", "Neighbouring layers share more features than distant ones, and the deeper two neighbours lie the more they share.")
def depth_and_sharing(test: Test, sentence: str, pairs: pd.DataFrame) -> Iterator[Finding]:
    """Neighbouring layers share more, and later layers more than early ones."""
    pairs = pairs.dropna(subset=["alive_match_ratio"])
    layers = sorted({*pairs["layer"], *pairs["other_layer"]})
    if len(layers) < 3:
        yield test.not_testable(sentence, f"needs SAEs at three or more layers, found {listed(layers)}")
        return
    place = {layer: number for number, layer in enumerate(layers)}
    apart = pairs[pairs["layer"] < pairs["other_layer"]].assign(from_place=lambda rows: rows["layer"].map(place))
    reverse = pairs.rename(columns={"sae_id": "other_sae_id", "other_sae_id": "sae_id", "alive_match_ratio": "reverse"})[[*IDS, "reverse"]]
    apart = apart.merge(reverse, on=IDS, how="left")
    apart["ratio"] = apart[["alive_match_ratio", "reverse"]].mean(axis=1)
    apart["near"] = (apart["other_layer"].map(place) - apart["from_place"] == 1).astype(float)
    near = apart[apart["near"] == 1]
    parts = []
    for name, here, term, said in (
        ("near against distant", apart, "near", "match ratio (alive latents) of neighbouring layers minus of layers further apart"),
        ("deep against early", near, "from_place", "rise of the match ratio (alive latents) of two neighbouring layers per layer of depth"),
    ):
        terms = _dummies(here["setting"]).assign(term=here[term].astype(float))
        figure = pair_estimate(here["ratio"].tolist(), terms, _last(terms), here[IDS], test.evidence.confidence)
        parts.append((name, _row(test, sentence, f"{ALL_LAYERS}, {name}", here, figure, f"{said}, over layers {listed(layers)}")))
    yield test.all_of(sentence, ALL_LAYERS, parts)
    yield from (row for _, row in parts)


@claim("S3-39")
@drawn_from("matches", "Another training mix leaves fewer features in common than any other single change.")
@away_from_the_start()
def dataset_changes_most(test: Test, sentence: str, matches: pd.DataFrame) -> Iterator[Finding]:
    """Of all factors, the data set changes the features most."""
    pairs = unordered(matches.query("unit == 'feature' and side == 'decoder'"))
    factors = [name for name in dict.fromkeys(pairs["factor"]) if name != "mix"]
    if "mix" not in set(pairs["factor"]) or not factors:
        yield test.not_testable(sentence, ONE_KIND.format("the training mix" if factors or pairs.empty else "another factor"))
        return
    parts, of = [], settings(test.evidence.design)
    for factor in factors:
        here = at_equal_settings(pairs, factor, "mix", of)
        if here.empty:
            continue
        figure = difference(here, "match_ratio", factor, of, test.evidence.confidence)
        wording = (
            f"match ratio ({_population(here)}, decoder, both directions averaged) of {(here['factor'] == factor).sum()} pairs that differ in {factor} "
            f"minus of {(here['factor'] == 'mix').sum()} that differ in the mix, at equal settings"
        )
        parts.append((factor, _row(test, sentence, f"{ALL_LAYERS}, {factor} against mix", here, figure, wording)))
    if lacking := [factor for factor in factors if factor not in dict(parts)]:
        yield test.not_testable(
            sentence,
            f"needs, for every factor matched, pairs that differ in the mix alone within the settings of both of its SAEs, found none for {listed(lacking)}",
        )
    else:
        yield test.all_of(sentence, ALL_LAYERS, parts)
    yield from (row for _, row in parts)


@claim("S3-40")
@drawn_from(
    "matches",
    "The wider two dictionaries of different seeds, the smaller the share they have in common; and a narrow one is contained in a wide one.",
)
def width_and_sharing(test: Test, sentence: str, matches: pd.DataFrame) -> Iterator[Finding]:
    """Wide dictionaries of two seeds share a smaller part of themselves, and contain the narrow ones."""
    features = matches.query("unit == 'feature' and side == 'decoder'")
    seeds = unordered(features[features["factor"] == "seed"])
    width = test.evidence.design["d_sae"].astype(float)
    seeds = seeds.assign(doublings=np.log2(seeds["sae_id"].map(width)), block=_blocks(test, seeds, ("expansion", "replicate")))
    seeds = seeds[seeds.groupby("block")["doublings"].transform("nunique") > 1]
    widths = features[features["factor"] == "expansion"]
    back = widths.rename(columns={"sae_id": "other_sae_id", "other_sae_id": "sae_id", "match_ratio": "back"})[[*IDS, "back"]]
    # By the widths they were built with: of a wide dictionary few latents may be alive.
    contained = widths[widths["sae_id"].map(width) < widths["other_sae_id"].map(width)].merge(back, on=IDS)
    expansions = test.evidence.design["expansion"]
    contained = contained[
        [regime(expansions[a]) == regime(expansions[b]) for a, b in zip(contained["sae_id"], contained["other_sae_id"], strict=True)]
    ]
    parts = []
    if len(seeds):
        terms = _dummies(seeds["block"]).assign(doublings=seeds["doublings"])
        figure = pair_estimate((-seeds["match_ratio"]).tolist(), terms, _last(terms), seeds[IDS], test.evidence.confidence)
        wording = "fall of the match ratio between seeds per doubling of the latents"
        parts.append(("seeds", _row(test, sentence, f"{ALL_LAYERS}, fall with width between seeds", seeds, figure, wording)))
    if len(contained):
        figure = pair_mean((contained["match_ratio"] - contained["back"]).tolist(), contained[IDS], test.evidence.confidence)
        wording = f"share of the narrower dictionary found in the wider ({contained['match_ratio'].mean():.3f}) minus the reverse ({contained['back'].mean():.3f})"
        parts.append(("containment", _row(test, sentence, f"{ALL_LAYERS}, containment", contained, figure, wording)))
    if len(parts) < 2:
        lacking = "seeds at two widths of one regime" if not len(seeds) else "two widths of one regime"
        yield test.not_testable(
            sentence,
            f"needs pairs that differ in nothing but the seed at two widths, and pairs that differ in nothing but the width; found none with {lacking}",
        )
    else:
        yield test.all_of(sentence, ALL_LAYERS, parts)
    yield from (row for _, row in parts)


def between_seeds(test: Test, sentence: str, mix: str, others: Sequence[str]) -> Finding | None:
    """How much more two seeds of one mix share than two seeds of the others; None where there are no such pairs."""
    pairs = _table(test, "one_to_one")
    if pairs is None:
        return None
    pairs = pairs[(pairs["factor"] == "seed")].dropna(subset=["shared_feature_ratio"])
    mixes = pairs["sae_id"].map(test.evidence.design["mix"])
    pairs = pairs.assign(own=(mixes == mix).astype(float), block=_blocks(test, pairs, ("mix", "replicate")))[mixes.isin([mix, *others])]
    pairs = pairs[pairs.groupby("block")["own"].transform("nunique") == 2]
    if pairs.empty:
        return None
    terms = _dummies(pairs["block"]).assign(own=pairs["own"])
    figure = pair_estimate(pairs["shared_feature_ratio"].tolist(), terms, _last(terms), pairs[IDS], test.evidence.confidence)
    wording = f"shared feature ratio between seeds of {mix} minus of {', '.join(others)}"
    return _row(test, sentence, f"{ALL_LAYERS}, shared between seeds", pairs, figure, wording)


# ------------------------------------------------------------------------------------------------ what they have in common


def _table(test: Test, name: str) -> pd.DataFrame | None:
    """A matching table, its alive latents where it tells them apart (neurons it does not); None without matching."""
    if test.matching is None:
        return None
    known = test.evidence.design.index
    table = test.matching[name]
    table = table[table["sae_id"].isin(known) & table["other_sae_id"].isin(known)]
    if "population" not in table.columns or not (table["population"] == "alive").any():
        return table
    return table[(table["population"] == "alive") | (table["unit"] == "neuron" if "unit" in table.columns else False)]


def _population(pairs: pd.DataFrame) -> str:
    return f"{pairs['population'].iloc[0]} latents"


def _blocks(test: Test, pairs: pd.DataFrame, varied: Sequence[str]) -> pd.Series:
    """Text that pairs have in common whose first SAEs share every setting but those varied, and the regime of width."""
    design = test.evidence.design
    kept = [name for name in DESIGN if name not in varied]
    named = design[kept].astype(str).agg(", ".join, axis=1) + ", " + design["expansion"].map(regime)
    return pairs["sae_id"].map(named)


def _scopes(test: Test, pairs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The scopes of a claim that have pairs, with them."""
    for scope, where in test.scopes():
        here = pairs[pairs["layer"] == where["layer"]] if where else pairs
        if len(here):
            yield scope, here


def _dummies(groups: pd.Series) -> pd.DataFrame:
    return pd.get_dummies(groups).astype(float)


def _last(terms: pd.DataFrame) -> list[float]:
    """Weights that pick the coefficient of the last term."""
    return [0.0] * (terms.shape[1] - 1) + [1.0]


def _row(test: Test, sentence: str, scope: str, pairs: pd.DataFrame, figure: PairEstimate, wording: str) -> Finding:
    used = test.evidence.design.loc[sorted({*pairs["sae_id"], *pairs["other_sae_id"]})]
    noise = "too few pairs of a kind to tell their noise, so there is no interval" if not np.isfinite(figure.low) else "SAEs are what is sampled"
    return Finding(
        id=test.id, claim=sentence, scope=scope, estimate=figure.estimate, low=figure.low, high=figure.high, p_value=figure.p_value,
        p_adjusted=figure.p_value, verdict=verdict_of(figure.low, figure.high, []), cells=len(used[["mix", "layer", "expansion"]].drop_duplicates()),
        documents=0, seeds=used["replicate"].nunique(), note=f"{wording}; {figure.pairs} pairs of {figure.saes} SAEs; {noise}",
    )  # fmt: skip
