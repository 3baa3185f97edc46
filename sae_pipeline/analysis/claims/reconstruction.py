"""Claims about how well SAEs reconstruct by width, token budget, depth and sparsity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from sae_pipeline.analysis.amounts import compact
from sae_pipeline.analysis.claims.registry import claim
from sae_pipeline.analysis.contrasts import averaged
from sae_pipeline.analysis.tables import WIDTH_RULE, regime
from sae_pipeline.analysis.verdicts import ALL_LAYERS, Finding, Test, level_name, listed, told


def _higher_against_lower(test: Test, sentence: str, factor: str, levels: Sequence[Any], noun: str) -> Iterator[Finding]:
    """Rows for "a higher level of the factor raises explained variance": the extremes, then each step where there are more."""
    sets, substitute = test.in_sample()
    if len(levels) < 2:
        yield test.not_testable(sentence, f"needs SAEs at two or more {noun}, found {told(factor, levels)}")
        return
    steps = [(levels[0], levels[-1]), *(pairwise(levels) if len(levels) > 2 else ())]
    for position, (low, high) in enumerate(steps):
        for scope, where in test.scopes() if factor != "layer" else [(ALL_LAYERS, {})]:
            units = test.evidence.matched(factor, [low, high], sets, **where)
            least, most = (level_name(factor, level) for level in (low, high))
            named = scope if position == 0 else f"{scope}, {least} to {most}"
            if not len(units):
                if scope == ALL_LAYERS:
                    yield test.not_testable(
                        sentence, f"no two SAEs differ in nothing but {noun} {least} and {most} and share an evaluation set", named
                    )
                continue
            terms = {(level, name): sign / len(sets) for level, sign in ((high, 1.0), (low, -1.0)) for name in sets}
            compared = f"explained variance at {most} minus at {least}, on {', '.join(sets)}"
            rule = factor == "expansion" and bool((units.index.get_level_values("rate") == WIDTH_RULE).any())
            confounded = "the learning rate falls with width by the 1/sqrt(d_sae) rule, so the two change together" if rule else ""
            yield test.row(sentence, named, [averaged(units, terms)], compared, substitute, confounded)


ENOUGH = 0.9
"""Share of the largest budget's explained variance that counts as having learned most of it; a choice of ours, the source states none."""


@claim("S0-14")
def width(test: Test) -> Iterator[Finding]:
    """More latents reconstruct better; undercomplete and overcomplete dictionaries are tested apart."""
    sentence = "A larger expansion factor raises explained variance."
    regimes = {name: [e for e in test.levels("expansion") if regime(e) == name] for name in ("overcomplete", "undercomplete")}
    tested = [levels for levels in regimes.values() if len(levels) > 1]
    if not tested:
        yield test.not_testable(sentence, f"needs two expansion factors on the same side of 1, found {listed(test.levels('expansion'))}")
    for levels in tested:
        rows = _higher_against_lower(test, sentence, "expansion", levels, "expansion factors")
        for row in rows:
            yield row if levels is tested[0] else replace(row, scope=f"{row.scope}, {regime(levels[0])}")


@claim("S0-15")
def token_budget(test: Test) -> Iterator[Finding]:
    """More training tokens reconstruct better."""
    sentence = "More training tokens raise explained variance."
    yield from _higher_against_lower(test, sentence, "tokens", test.levels("tokens"), "token budgets")


@claim("S0-16")
def diminishing_returns(test: Test) -> Iterator[Finding]:
    """The gain per doubling of the budget shrinks."""
    sentence = "The gain from doubling the training tokens shrinks as the budget grows."
    sets, substitute = test.in_sample()
    budgets = test.levels("tokens")
    if len(budgets) < 3:
        yield test.not_testable(sentence, f"needs SAEs at three or more token budgets, found {told('tokens', budgets)}")
        return
    first, last = (budgets[0], budgets[1]), (budgets[-2], budgets[-1])
    for scope, where in test.scopes():
        units = test.evidence.matched("tokens", sorted({*first, *last}), sets, **where)
        if not len(units):
            if scope == ALL_LAYERS:
                yield test.not_testable(sentence, "no SAE setting was trained at the first two and at the last two token budgets")
            continue
        gains = []
        for sign, (low, high) in ((1.0, first), (-1.0, last)):
            share = sign / (np.log2(high / low) * len(sets))
            gains.append(averaged(units, {(level, name): step for level, step in ((high, share), (low, -share)) for name in sets}))
        steps = [f"from {compact(low)} to {compact(high)}" for low, high in (first, last)]
        wording = f"gain per doubling {' minus '.join(steps)} tokens"
        yield test.row(sentence, scope, gains, wording, substitute)


@claim("S0-17")
def depth(test: Test) -> Iterator[Finding]:
    """Deeper layers are explained better."""
    yield from _higher_against_lower(test, "Explained variance is higher at a deeper layer.", "layer", test.layers, "layers")


@claim("S0-19")
def sparsity_trade_off(test: Test) -> Iterator[Finding]:
    """Reconstruction is paid for with active latents."""
    sentence = "SAEs with more active latents per token explain more variance."
    sets, substitute = test.in_sample()
    levels = [level for level in test.levels("sparsity") if level > 0]  # 0 stands for one that a table does not tell
    extremes = [(low, high) for low, high in combinations(levels, 2) if len(test.evidence.matched("sparsity", [low, high], sets))]
    if not extremes:
        known = f"the sparsities {told('sparsity', levels)} without such a pair" if any(levels) else "none whose sparsity is known"
        yield test.not_testable(sentence, f"needs SAEs that differ in nothing but sparsity, found {known}")
        return
    low, high = max(extremes, key=lambda pair: pair[1] / pair[0])
    for scope, where in test.scopes():
        units = test.evidence.matched("sparsity", [low, high], sets, **where)
        if not len(units):
            continue
        share = 1 / len(sets)
        contrast = averaged(units, {(level, name): sign * share for level, sign in ((high, 1.0), (low, -1.0)) for name in sets})
        l0 = {level: test.evidence.estimate(averaged(units, {(level, name): share for name in sets}), "l0").estimate for level in (low, high)}
        if l0[high] <= l0[low]:
            yield test.not_testable(sentence, f"the SAEs set to sparsity {high:g} have no more active latents than those set to {low:g}", scope)
            continue
        yield test.row(sentence, scope, [contrast], f"explained variance at a mean L0 of {l0[high]:.1f} minus at {l0[low]:.1f}", substitute)


@claim("S2-1")
def little_data_is_enough(test: Test) -> Iterator[Finding]:
    """A small share of the tokens already gives most of what the largest budget gives."""
    sentence = f"An SAE trained on the smallest token budget explains at least {100 * ENOUGH:g} % of what the largest budget explains."
    sets, substitute = test.in_sample()
    budgets = test.levels("tokens")
    if len(budgets) < 2:
        yield test.not_testable(sentence, f"needs SAEs at two or more token budgets, found {told('tokens', budgets)}")
        return
    low, high = budgets[0], budgets[-1]
    for scope, where in test.scopes():
        units = test.evidence.matched("tokens", [low, high], sets, **where)
        if not len(units):
            if scope == ALL_LAYERS:
                yield test.not_testable(sentence, f"no SAE setting was trained at both {compact(low)} and {compact(high)} tokens")
            continue
        terms = {(level, name): weight / len(sets) for level, weight in ((low, 1.0), (high, -ENOUGH)) for name in sets}
        wording = f"explained variance at {compact(low)} tokens minus {ENOUGH:g} of that at {compact(high)} ({high / low:g} times as many), on {', '.join(sets)}"
        yield test.row(sentence, scope, [averaged(units, terms)], wording, substitute)
