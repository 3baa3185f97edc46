"""What a table of results cannot say of itself: which training text is of the kind of which evaluation set, as the user declares it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from sae_pipeline.errors import BadInput
from sae_pipeline.foreign_tables.results import Results
from sae_pipeline.study.schema import Activations, Analysis, Saes, Study
from sae_pipeline.study.text_sections import Files, HeldOut

OTHER = "other text"
"""Source of what a mix holds beside the shares that were declared."""

UNTOLD = "not told"
"""Kind of every source: a table says nothing of the texts themselves."""

Shares = dict[str, dict[str, float]]


def in_domain(results: Results, declared: Sequence[str]) -> Shares:
    """Shares of each mix's text that are of the kind of an evaluation set, by mix and set.

    Args:
        results: the table.
        declared: ``MIX=SET`` or ``MIX=SET:SHARE`` each; without a share all of the mix is of that kind.

    Raises:
        BadInput: a mix or a set that the table does not have, or shares that cannot be.
    """
    mixes, sets = _names(results.saes["mix"]), _names(results.sae_metrics["evaluation_set"])
    shares: Shares = {mix: {} for mix in mixes}
    for text in declared:
        mix, name, share = _parts(text, mixes, sets)
        if name in shares[mix]:
            raise BadInput(f"--in-domain {text}: expected each mix and evaluation set together once, found {mix}={name} again; keep one")
        shares[mix][name] = share
    for mix, kinds in shares.items():
        if (total := sum(kinds.values())) > 1 + 1e-9:
            raise BadInput(f"--in-domain: expected the shares of {mix} to sum to at most 1, found {total:g}; write them as {mix}=SET:SHARE")
    return shares


def declared_study(results: Results, shares: Shares, name: str, analysis: Analysis) -> Study:
    """The study that the table is the result of, as far as it is known; what nobody knows is not set, and reading it is an error.

    Each evaluation set stands for a source of its own; a mix of which nothing was declared has no shares.
    """
    sets = _names(results.sae_metrics["evaluation_set"])
    kinds = results.sae_metrics.drop_duplicates("evaluation_set").set_index("evaluation_set")["kind"]
    mixes = {mix: {**kinds_of, **_rest(kinds_of)} for mix, kinds_of in shares.items()}
    saes = results.saes
    untold: dict[str, Any] = {"kind": UNTOLD}
    known: dict[str, dict[str, Any]] = {
        "activations": {"layers": tuple(sorted(set(saes["layer"]))), "site": tuple(_names(saes["site"]))},
        "saes": {"expansions": tuple(sorted(set(saes["expansion"])))},
        "study": {
            "name": name,
            "description": f"Results read from {results.path.name}.",
            "sources": dict.fromkeys([*sets, OTHER], Files.model_construct(None, **untold)),
            "mixes": mixes,
            "held_out": {held_out: HeldOut.model_construct(shares={held_out: 1.0}, kind=kinds[held_out]) for held_out in sets},
            "positions": None,
            "analysis": analysis,
        },
    }
    activations, dictionaries = Activations.model_construct(None, **known["activations"]), Saes.model_construct(None, **known["saes"])
    return Study.model_construct(None, activations=activations, saes=dictionaries, **known["study"])


def _rest(kinds: dict[str, float]) -> dict[str, float]:
    rest = 1 - sum(kinds.values())
    return {OTHER: rest} if kinds and rest > 1e-9 else {}


def _parts(text: str, mixes: list[str], sets: list[str]) -> tuple[str, str, float]:
    """Mix, set and share; names may hold ``=`` and ``:`` themselves, so they are looked for among those of the table."""
    mix = next((known for known in sorted(mixes, key=len, reverse=True) if text.startswith(f"{known}=")), None)
    if mix is None:
        raise BadInput(f"--in-domain {text}: expected MIX=SET with a mix of the table ({', '.join(mixes)}); correct the mix")
    rest = text.removeprefix(f"{mix}=")
    if rest in sets:
        return mix, rest, 1.0
    name, _, number = rest.rpartition(":")
    if name not in sets:
        raise BadInput(f"--in-domain {text}: expected an evaluation set of the table ({', '.join(sets)}), found '{rest}'; correct the set")
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise BadInput(f"--in-domain {text}: expected a share above 0 and at most 1, found '{number}'; correct it")
    return mix, name, share


def _names(column: pd.Series) -> list[str]:
    """Names in the order of the table."""
    return list(dict.fromkeys(column))
