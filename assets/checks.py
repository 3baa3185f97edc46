"""Asset checks that the study's first rubric asks for: what it marks, and how bad a mark is, is the rubric's data."""

from typing import Any

import dagster as dg

from sae_pipeline.analysis.health.rubrics import load_rubric
from sae_pipeline.store import Artifact
from sae_pipeline.study import Study

SEVERITIES = {"warn": dg.AssetCheckSeverity.WARN, "error": dg.AssetCheckSeverity.ERROR}


def health_check_specs(study: Study, asset_key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """One check per metric that the rubric gives a check; none of them holds up what follows, because a poor SAE is a result too."""
    rubric = load_rubric(study.analysis.rubrics[0])
    return [
        dg.AssetCheckSpec(
            judged.check, asset=asset_key, blocking=False, description=f"{rubric.name} marks no SAE down for {judged.label}, over the in-sample sets."
        )
        for judged in rubric.metrics
        if judged.check
    ]


def health_check_results(study: Study, asset_key: dg.AssetKey, card: Artifact, partition: str) -> list[dg.AssetCheckResult]:
    """The outcome of the checks for the SAEs of one scorecard.

    Each names its partition: Dagster lists a check once per asset with the latest outcome, the others are in its history.
    """
    import pandas as pd

    from sae_pipeline.analysis.health.checks import health_checks

    found = health_checks(pd.read_parquet(card.file("health.parquet")), load_rubric(study.analysis.rubrics[0]), study.in_sample)
    return [
        dg.AssetCheckResult(
            asset_key=asset_key,
            check_name=check.name,
            passed=check.passed,
            severity=SEVERITIES[check.severity],
            description=f"{partition}: {check.sentence}",
            metadata={"partition": partition} | check.figures,
        )
        for check in found
    ]


def bottom_line_rows(study: Study, card: Artifact) -> list[dict[Any, Any]]:
    """What the first rubric concludes of each SAE of one scorecard, in words, over the sets that the checks look at."""
    import pandas as pd

    from sae_pipeline.analysis.health.marks import bottom_lines

    lines = bottom_lines(pd.read_parquet(card.file("health.parquet")), load_rubric(study.analysis.rubrics[0]), study.in_sample or None)
    return lines.to_dict("records")
