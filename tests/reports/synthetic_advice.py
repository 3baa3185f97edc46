"""Made-up drops, causes and proposals for the report's tests, of the shapes the analysis hands over."""

from __future__ import annotations

from typing import Any

import pandas as pd

from sae_pipeline.analysis import generalisation as gaps
from sae_pipeline.analysis.improving import proposals as arms
from sae_pipeline.analysis.improving import root_causes as causes

SAE = "PRE.L01.x04.topk-k16-t50k-s0"


def gap(sae_id: str = SAE, **changes: Any) -> dict[str, Any]:
    """A drop from 0.8 to 0.4 on the set ``code``, a half where 20 to 40 % are expected."""
    return {
        "sae_id": sae_id, "evaluation_set": "code", "kind": "domain_shift", "in_sample_sets": "prose", "explained_variance_in_sample": 0.8,
        "explained_variance": 0.4, "generalisation_gap": 0.4, "generalisation_gap_low": 0.36, "generalisation_gap_high": 0.44, "relative_drop": 0.5, "relative_drop_low": 0.45,
        "relative_drop_high": 0.55, "expected_low": 0.2, "expected_high": 0.4, "verdict": "more_than_expected", "l0_in_sample": 16.0, "l0": 15.0,
        "l0_shift": -1.0, "l0_shift_low": -1.2, "l0_shift_high": -0.8, "relative_l0_shift": -0.0625, "relative_l0_shift_low": -0.075,
        "relative_l0_shift_high": -0.05, "documents": 80, "note": "",
    } | changes  # fmt: skip


def generalisation(*rows: dict[str, Any]) -> pd.DataFrame:
    """The table ``generalisation`` of these rows; by default of one."""
    return pd.DataFrame(rows or [gap()]).astype(gaps.COLUMNS).assign(site="resid_post")


def root_causes() -> pd.DataFrame:
    """Two causes: one that two SAEs have, one that one of them has."""
    rows = [
        (SAE, "always_on", "latents firing on more than 80 % of tokens 2 (above 0)", "dense_share@0.8", 0.004),
        (SAE.replace("PRE", "INS"), "always_on", "latents firing on more than 80 % of tokens 1 (above 0)", "dense_share@0.8", 0.002),
        (SAE, "undertrained", "explained variance 0.3, marked poor", "explained_variance", 0.3),
    ]
    return pd.DataFrame(
        [(sae_id, "prose", cause, f"Why it is {cause}", evidence, metric, value, "made up") for sae_id, cause, evidence, metric, value in rows],
        columns=list(causes.COLUMNS),
    ).astype(causes.COLUMNS)


def proposals() -> pd.DataFrame:
    """An arm to train, one that the study has, and a remedy that is not possible."""
    rows = [
        ("always_on", "add the diversity loss", "diversity_coefficient 0 → 0.01", f"{SAE}-diversity", arms.TO_TRAIN, ""),
        ("always_on", "halve the dictionary", "expansion 8 → 4", SAE, arms.IN_STUDY, "the study has this arm already"),
        ("undertrained", "train on twice the tokens", "", None, arms.NOT_POSSIBLE, "needs 400,000 tokens of activations"),
    ]
    return pd.DataFrame(
        [
            (cause, remedy, change, SAE, proposed, status, "prose", "explained_variance", "higher", note, "made up")
            for cause, remedy, change, proposed, status, note in rows
        ],
        columns=list(arms.COLUMNS),
    ).astype(arms.COLUMNS)
