"""Claims about what the latents do: how many are active, always on, or active on text that means nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from sae_pipeline.analysis.claims.registry import claim
from sae_pipeline.analysis.claims.sharing import between_seeds
from sae_pipeline.analysis.contrasts import Contrast, Evidence, averaged, scaled
from sae_pipeline.analysis.tables import DESIGN, VARIANT, regime
from sae_pipeline.analysis.verdicts import ALL_LAYERS, Finding, Test, listed

ALWAYS_ON = "dense_share@0.8"
FAKE = "fake_feature_ratio"
NEEDED = {
    "diversity penalty": "SAEs that differ in nothing but the diversity coefficient",
    "training text": "SAEs of two mixes that lean to the sources of two single-source sets",
}
"""What the parts of the claim on always-on latents are drawn from."""


@claim("S0-20")
def width_and_active_latents(test: Test) -> Iterator[Finding]:
    """Wider dictionaries activate more latents, where nothing sets how many."""
    sentence = "A larger expansion factor makes more latents active per token."
    saes = test.evidence.tables.saes
    limits = saes[[name for name in ("k", "target_l0") if name in saes.columns]]
    free = set(saes.loc[limits.isna().all(axis=1), "sae_id"])
    if not free:
        yield test.not_testable(
            sentence, "the number of active latents of these SAEs is set (k, or a target that training is steered to), so width cannot change it"
        )
        return
    if not test.evidence.resamples.values("l0")[0]:
        yield test.not_testable(sentence, "needs the mean number of active latents per token (l0), found no such column")
        return
    levels = [e for e in test.levels("expansion") if regime(e) == "overcomplete"]
    sets, substitute = test.in_sample()
    for scope, where in test.scopes():
        units = test.evidence.matched("expansion", [levels[0], levels[-1]], sets, metric="l0", **where) if len(levels) > 1 else pd.DataFrame()
        units = units[units.isin(free).all(axis=1)] if len(units) else units
        if not len(units):
            if scope == ALL_LAYERS:
                yield test.not_testable(
                    sentence, f"needs SAEs that differ in nothing but the expansion factor, at two factors of 1 or more, found {listed(levels)}"
                )
            continue
        terms = {(level, name): sign / len(sets) for level, sign in ((levels[-1], 1.0), (levels[0], -1.0)) for name in sets}
        yield test.row(
            sentence,
            scope,
            [averaged(units, terms)],
            f"mean L0 at {levels[-1]:g} minus at {levels[0]:g}, on {', '.join(sets)}",
            substitute,
            metric="l0",
        )


@claim("S2-13")
def self_generated_text(test: Test) -> Iterator[Finding]:
    """Text that the model wrote itself gives fewer fake features and features that depend less on the seed."""
    sentence = "Training on text that the subject model wrote itself lowers the fake feature ratio and raises the share of features that two seeds have in common."
    written = [name for name, source in test.study.sources.items() if source.kind == "self_generated"]
    share = {mix: sum(shares.get(name, 0.0) for name in written) for mix, shares in test.study.mixes.items()}
    own, others = max(share, key=lambda mix: share[mix], default=""), [mix for mix in share if share[mix] == 0]
    if not written or not share.get(own) or not others:
        yield test.not_testable(sentence, "needs a mix with self-generated text and one without, found only the one kind")
        return
    parts = []
    measured, (sets, _) = test.measured(), test.in_sample()
    units = measured.evidence.matched("mix", [own, *others], sets, metric=FAKE)
    if len(units):
        terms = {(mix, name): sign / len(sets) for name in sets for mix, sign in ((own, -1.0), *((mix, 1 / len(others)) for mix in others))}
        wording = f"fake feature ratio of {listed(others)} (mean) minus of {own}"
        parts.append(
            ("fake feature ratio", measured.row(sentence, f"{ALL_LAYERS}, fake feature ratio", [averaged(units, terms)], wording, metric=FAKE))
        )
    if (shared := between_seeds(test, sentence, own, others)) is not None:
        parts.append(("shared between seeds", shared))
    if len(parts) < 2:
        lacking = "fake feature ratios of matching SAEs" if not len(units) else "matched features of two seeds of either mix"
        yield test.not_testable(sentence, f"needs both parts of the claim, found no {lacking}")
    else:
        yield test.all_of(sentence, ALL_LAYERS, parts)
    yield from (row for _, row in parts)


@claim("S4-18")
def always_on_latents(test: Test) -> Iterator[Finding]:
    """A diversity penalty, and text of the domain looked at, keep latents from being always on."""
    sentence = "Fewer latents are active on over 80 % of the tokens with a diversity penalty, and with training text of the evaluated domain."
    measured = test.measured()
    rows = measured.evidence.resamples.values(ALWAYS_ON)[0]
    parts: list[tuple[str, Finding]] = []
    sets, _ = test.in_sample()
    for low, high, units in _diversity(measured.evidence):
        terms = {(level, name): sign / len(sets) for level, sign in ((low, 1.0), (high, -1.0)) for name in sets}
        contrast = averaged(units, terms)
        if all(key in rows for key in contrast):
            wording = f"share of always-on latents at a diversity coefficient of {low:g} minus at {high:g}"
            parts.append(("diversity penalty", measured.row(sentence, f"{ALL_LAYERS}, diversity penalty", [contrast], wording, metric=ALWAYS_ON)))
    for pair in test.in_domain_pairs()[:1]:
        found: Contrast | None = test.in_domain_contrast(pair, pair.mixes[0])
        if found and all(key in rows for key in found):
            wording = f"difference of differences between {' and '.join(pair.mixes[0])} on {' and '.join(pair.sets)}, with its sign reversed"
            parts.append(("training text", measured.row(sentence, f"{ALL_LAYERS}, training text", [scaled(found, -1.0)], wording, metric=ALWAYS_ON)))
    if len(parts) < 2:
        lacking = listed([words for name, words in NEEDED.items() if name not in dict(parts)])
        yield test.not_testable(sentence, f"needs the share of always-on latents for both parts of the claim, found none of {lacking}")
    else:
        yield test.all_of(sentence, ALL_LAYERS, parts)
    yield from (row for _, row in parts)


def _diversity(evidence: Evidence) -> Iterator[tuple[float, float, pd.DataFrame]]:
    """The smallest and the largest diversity coefficient, with the SAEs that differ in nothing else; nothing where there is one."""
    saes, name = evidence.tables.saes.set_index("sae_id"), "diversity_coefficient"
    if name not in saes.columns or saes[name].nunique() < 2:
        return
    kept = [column for column in VARIANT if column in saes.columns and column != name]
    other = saes[kept].astype(str).agg(", ".join, axis=1) if kept else pd.Series("", index=saes.index)
    table = evidence.design.assign(variant=evidence.design["sae_id"].map(other), coefficient=evidence.design["sae_id"].map(saes[name]))
    low, high = float(saes[name].min()), float(saes[name].max())
    units = table.pivot_table(index=list(DESIGN), columns="coefficient", values="sae_id", aggfunc="first").reindex(columns=[low, high]).dropna()
    if len(units):
        yield low, high, units
