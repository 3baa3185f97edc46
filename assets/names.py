"""How assets are named and worded."""

import dagster as dg

from sae_pipeline.study import Study


def key(study: Study, *parts: str) -> dg.AssetKey:
    """``<study>/<part>/…``: asset keys are global to a Dagster instance, and one home serves several studies."""
    return dg.AssetKey([study.name, *parts])


def explained(what: str, *, reads: str, makes: str) -> str:
    """An asset's description: one sentence, which is what the graph shows, then what it reads and what it makes."""
    return f"{what}\n\nReads {reads}\n\nMakes {makes}"


def describe_shares(shares: dict[str, float]) -> str:
    """``70 % prose + 30 % instructions``."""
    return " + ".join(f"{100 * share:g} % {name}" for name, share in shares.items() if share > 0)
