"""How a stage's outcome becomes a Dagster result: data version, metadata, and what was computed or reused."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from sae_pipeline.launcher.outcome import COMPUTED, REUSED, WHAT_TO_DO
from sae_pipeline.store import Artifact


def result(
    artifacts: Sequence[Artifact],
    *,
    version: str,
    figures: dict[str, Any],
    checks: Sequence[dg.AssetCheckResult] = (),
    computed: int | None = None,
    reused: int | None = None,
) -> dg.MaterializeResult:
    """A materialisation with its figures; ``version`` is what downstream staleness is judged by."""
    made = sum(not a.reused for a in artifacts) if computed is None else computed
    found = sum(a.reused for a in artifacts) if reused is None else reused
    metadata: dict[str, Any] = {name: value for name, value in figures.items() if value is not None}
    if len(artifacts) == 1:
        made_by = artifacts[0].manifest
        metadata |= {
            "fingerprint": artifacts[0].fingerprint,
            "content": artifacts[0].content,
            "path": dg.MetadataValue.path(str(artifacts[0].folder)),
            "made": f"{made_by['created']} on {made_by['host']} in {made_by['seconds']:.1f} s",
            "made_with": ", ".join(f"{name} {version}" for name, version in sorted(made_by["libraries"].items())),
        }
    return dg.MaterializeResult(data_version=dg.DataVersion(version), metadata=metadata | {COMPUTED: made, REUSED: found}, check_results=checks)


def check(key: dg.AssetKey, name: str, passed: bool, *, blocking: bool = True, what_to_do: str | None = None, **figures: Any) -> dg.AssetCheckResult:
    """The outcome of one check; a blocking one that fails stops the same run from going downstream, and says how to mend it."""
    severity = dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN
    return dg.AssetCheckResult(
        asset_key=key, check_name=name, passed=bool(passed), severity=severity, metadata=figures | ({WHAT_TO_DO: what_to_do} if what_to_do else {})
    )
