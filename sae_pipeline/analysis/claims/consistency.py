"""The claim that what holds at one layer holds at every layer."""

from __future__ import annotations

from collections.abc import Iterator

from sae_pipeline.analysis.claims.registry import claim
from sae_pipeline.analysis.contrasts import Contrast, averaged, combined, scaled
from sae_pipeline.analysis.tables import regime
from sae_pipeline.analysis.verdicts import ALL_LAYERS, Finding, Test


@claim("S0-18")
def alike_at_every_layer(test: Test) -> Iterator[Finding]:
    """Text, width and budget act in one direction at all layers; the direction is that of their mean over the layers."""
    sentence = "The effects of training text, width and token budget point the same way at every layer."
    if len(test.layers) < 2:
        yield test.not_testable(sentence, f"needs SAEs at two or more layers, found {len(test.layers)}")
        return
    parts = []
    for name, by_layer in _effects(test):
        if len(by_layer) < 2:
            continue
        mean = test.evidence.estimate(combined(*(scaled(contrast, 1 / len(by_layer)) for contrast in by_layer.values()))).estimate
        sign = -1.0 if mean < 0 else 1.0
        for layer, contrast in by_layer.items():
            wording = f"{name}, in the direction of its mean over the layers ({mean:+.4f})"
            parts.append((f"{name} at L{layer:02d}", test.row(sentence, f"L{layer:02d}, {name}", [scaled(contrast, sign)], wording)))
    if not parts:
        yield test.not_testable(
            sentence, "needs, at two layers or more, SAEs that differ in nothing but the mix, the expansion factor or the tokens, found none"
        )
        return
    yield test.all_of(sentence, ALL_LAYERS, parts)
    yield from (row for _, row in parts)


def _effects(test: Test) -> Iterator[tuple[str, dict[int, Contrast]]]:
    """The effects by name, each a contrast per layer that has it."""
    for pair in test.in_domain_pairs()[:1]:
        found = {layer: test.in_domain_contrast(pair, pair.mixes[0], layer=layer) for layer in test.layers}
        yield "in-domain advantage", {layer: contrast for layer, contrast in found.items() if contrast}
    sets, _ = test.in_sample()
    widths = [expansion for expansion in test.levels("expansion") if regime(expansion) == "overcomplete"] or test.levels("expansion")
    for name, factor, levels in (("width", "expansion", widths), ("token budget", "tokens", test.levels("tokens"))):
        if len(levels) < 2:
            continue
        terms = {(level, where): sign / len(sets) for level, sign in ((levels[-1], 1.0), (levels[0], -1.0)) for where in sets}
        units = {layer: test.evidence.matched(factor, [levels[0], levels[-1]], sets, layer=layer) for layer in test.layers}
        yield name, {layer: averaged(matched, terms) for layer, matched in units.items() if len(matched)}
