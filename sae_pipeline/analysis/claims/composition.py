"""Claims about what the training text is made of: the in-domain advantage, mixes between their ends, and composition against quantity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sae_pipeline.analysis.amounts import compact
from sae_pipeline.analysis.bootstrap import percentile_interval
from sae_pipeline.analysis.claims.registry import claim
from sae_pipeline.analysis.contrasts import averaged, scaled
from sae_pipeline.analysis.tables import evaluation_sets
from sae_pipeline.analysis.variance import CHOICES, MIX, Shares, decompose
from sae_pipeline.analysis.verdicts import ALL_LAYERS, Finding, InDomainPair, Test, told, verdict_of


@claim("S0-13")
def in_domain_advantage(test: Test) -> Iterator[Finding]:
    """Training text that matches the evaluation text helps, as a difference of differences."""
    sentence = "An SAE explains more variance on the kind of text it was trained on."
    pairs = test.in_domain_pairs()
    if not pairs:
        yield test.not_testable(
            sentence, "needs two evaluation sets of one source each, and two mixes with matching SAEs of which one has more of the first source and less of the second"
        )  # fmt: skip
        return
    for scope, where in test.scopes():
        parts = [contrast for pair in pairs if (contrast := test.in_domain_contrast(pair, pair.mixes[0], **where)) is not None]
        if parts:
            wording = "; ".join(_difference_of_differences(pair.sets, pair.mixes[0]) for pair in pairs)
            yield test.row(sentence, scope, [scaled(part, 1 / len(parts)) for part in parts], wording)
    for pair in pairs:
        for mixes in pair.mixes if len(pairs) > 1 else pair.mixes[1:]:
            for scope, where in test.scopes():
                contrast = test.in_domain_contrast(pair, mixes, **where)
                if contrast is not None:
                    detail = f"{scope}, {mixes[0]} against {mixes[1]} on {pair.sets[0]} and {pair.sets[1]}"
                    yield test.row(sentence, detail, [contrast], _difference_of_differences(pair.sets, mixes))


def _difference_of_differences(sets: tuple[str, str], mixes: tuple[str, str]) -> str:
    return f"({sets[0]} − {sets[1]}) of {mixes[0]} minus the same of {mixes[1]}"


@claim("S0-21")
def composition_over_quantity(test: Test) -> Iterator[Finding]:
    """Past some budget, what the text is matters more than how much of it there is."""
    sentence = "Matching the training text to the evaluation text gains more than the last increase of the token budget."
    budgets, pairs = test.levels("tokens"), test.in_domain_pairs()
    if len(budgets) < 2 or not pairs:
        lacking = f"two token budgets, found {told('tokens', budgets)}" if len(budgets) < 2 else "a testable in-domain advantage, found none"
        yield test.not_testable(sentence, f"needs {lacking}")
        return
    sets, mixes = pairs[0].sets, pairs[0].mixes[0]
    for scope, where in test.scopes():
        advantage = test.in_domain_contrast(pairs[0], mixes, **where)
        units = test.evidence.matched("tokens", budgets[-2:], sets, **where)
        if advantage is None or not len(units):
            if scope == ALL_LAYERS:
                yield test.not_testable(sentence, f"no SAE setting was trained at both {compact(budgets[-2])} and {compact(budgets[-1])} tokens")
            continue
        # Half the difference of differences is the mean gain, over the two sets, of the mix that leans to the set.
        gain = averaged(units, {(level, name): sign / 2 for level, sign in ((budgets[-2], 1.0), (budgets[-1], -1.0)) for name in sets})
        wording = f"mean gain from the matching mix ({mixes[0]}, {mixes[1]}) minus the gain from {compact(budgets[-2])} to {compact(budgets[-1])} tokens, on {', '.join(sets)}"
        yield test.row(sentence, scope, [scaled(advantage, 0.5), gain], wording)


@claim("S0-22")
def mixes_between_their_ends(test: Test) -> Iterator[Finding]:
    """On either kind of text, a mix lies between the two that lean further to one side and to the other."""
    sentence = "A mix explains less variance than the mix of the evaluated text and more than the mix of the other text: it lies between its ends."
    pairs = test.in_domain_pairs()
    if not pairs:
        yield test.not_testable(sentence, "needs a testable in-domain advantage, found none")
        return
    pair, (one, other) = pairs[0], pairs[0].mixes[0]
    inner = _between(test, pair)
    if not inner:
        yield test.not_testable(sentence, f"needs a third mix between {one} and {other} with matching SAEs, found none")
        return
    ends = f"{one} and {other}" + ("" if _are_pure(test, pair) else ", which are no pure ends")
    parts = []
    for home, near, far in ((pair.sets[0], one, other), (pair.sets[1], other, one)):
        for name, more, less in (("below the nearer end", near, None), ("above the farther end", None, far)):
            averages = []
            for mix in inner:
                units = test.evidence.matched("mix", [one, mix, other], pair.sets)
                averages.append(averaged(units, {(more or mix, home): 1 / len(inner), (less or mix, home): -1 / len(inner)}))
            scope = f"{ALL_LAYERS}, on {home} {name}"
            parts.append((f"on {home} {name}", test.row(sentence, scope, averages, f"{', '.join(inner)} between {ends}")))
    yield test.all_of(sentence, ALL_LAYERS, parts)
    yield from (row for _, row in parts)


def _shares(test: Test, pair: InDomainPair, mix: str) -> tuple[float, float]:
    """Shares of the two single sources of a pair of sets in a mix."""
    first, second = (next(source for source, share in test.study.held_out[name].shares.items() if share > 0) for name in pair.sets)
    return test.study.mixes[mix].get(first, 0.0), test.study.mixes[mix].get(second, 0.0)


def _between(test: Test, pair: InDomainPair) -> list[str]:
    """Mixes with strictly less of the first source than the first end and more than the second, and the reverse of the second source."""
    one, other = pair.mixes[0]
    (a, b), (c, d) = _shares(test, pair, one), _shares(test, pair, other)
    inner = [mix for mix in test.study.mixes if c < _shares(test, pair, mix)[0] < a and b < _shares(test, pair, mix)[1] < d]
    return [mix for mix in inner if len(test.evidence.matched("mix", [one, mix, other], pair.sets))]


def _are_pure(test: Test, pair: InDomainPair) -> bool:
    one, other = pair.mixes[0]
    return _shares(test, pair, one)[0] == 1 and _shares(test, pair, other)[1] == 1


@claim("S0-23")
def composition_matters_most(test: Test) -> Iterator[Finding]:
    """What the text is made of accounts for more of the variance than any other choice."""
    sentence = "Of all choices in training, the composition of the text accounts for most of the variance of explained variance."
    rivals = [name for name in CHOICES if name != MIX]
    for scope, where in test.scopes():
        found = decompose(test.evidence, "explained_variance", where.get("layer", test.layers[0] if len(test.layers) == 1 else None))
        others = {name: found.by_factor[name] for name in rivals if name in found.by_factor} if found else {}
        if found is None or MIX not in found.by_factor or not others:
            if scope == ALL_LAYERS:
                lacking = (
                    "SAEs of two mixes or more" if not found or MIX not in found.by_factor else "SAEs that differ in another choice than the mix"
                )
                yield test.not_testable(sentence, f"needs {lacking} with a value on every evaluation set, found none")
            continue
        if not found.corrected:
            if scope == ALL_LAYERS:
                yield test.not_testable(sentence, "needs two seeds of some setting, by whose noise the shares are corrected, found one seed in each")
            continue
        parts = [(name, _lead(test, sentence, scope, where, found, name)) for name in others]
        yield test.all_of(sentence, scope, parts)


def _lead(test: Test, sentence: str, scope: str, where: dict[str, Any], found: Shares, rival: str) -> Finding:
    """The row of the lead of the mix's share over that of another choice."""
    evidence, other = test.evidence, found.by_factor[rival]
    lead = found.composition - other
    value, (low, high) = float(lead[0]), percentile_interval(lead[1:], evidence.confidence)
    # The draws hold the doubt about the variances too, so their tails are counted and no distribution continues them.
    p = min(2 * (1 + int((lead[1:] * (1 if value > 0 else -1) <= 0).sum())) / len(lead), 1.0)
    if low == high:
        low = high = p = float("nan")
    used = evidence.design[evidence.design["layer"] == where["layer"]] if where else evidence.design
    sets = evaluation_sets(evidence.tables)
    wording = f"share of the mix {found.composition[0]:.3f} (on every set alike, and by set) minus of {rival} {other[0]:.3f}, the noise between seeds taken off"
    caution = evidence.resamples.caution([(sae_id, name) for sae_id in used["sae_id"] for name in sets])
    return Finding(
        id=test.id, claim=sentence, scope=scope, estimate=value, low=low, high=high, p_value=p, p_adjusted=p, verdict=verdict_of(low, high, []),
        cells=len(used[["mix", "layer", "expansion"]].drop_duplicates()), documents=sum(evidence.resamples.documents[name] for name in sets),
        seeds=used["replicate"].nunique(), note="; ".join(filter(None, (wording, caution))),
    )  # fmt: skip
