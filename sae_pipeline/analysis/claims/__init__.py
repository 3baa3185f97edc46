"""Claims of the sources about what changes an SAE, each put as a hypothesis and tested on a study's figures.

A claim is one function registered under its id (:mod:`.registry`), in the file of its subject. It builds contrasts from
matched SAEs and hands them to ``Test.row``, which estimates them and gives the verdict; where the study lacks what the claim
needs, it says so instead. Every contrast is oriented so that the claim predicts a positive value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields

import pandas as pd

from sae_pipeline.analysis.claims import composition, consistency, latents, reconstruction, seeds, sharing  # noqa: F401  (registers the claims)
from sae_pipeline.analysis.claims.registry import CLAIMS, ORDER
from sae_pipeline.analysis.contrasts import Evidence
from sae_pipeline.analysis.verdicts import Finding, Test, judged_together
from sae_pipeline.study.schema import Study


def find(evidence: Evidence, study: Study, matching: Mapping[str, pd.DataFrame] | None = None) -> pd.DataFrame:
    """Test every claim.

    Args:
        evidence: the SAEs of one site with their resamples.
        study: its mixes, the shares and kinds of its evaluation sets, and how intervals are drawn.
        matching: the tables ``matches``, ``one_to_one`` and ``layer_matches`` of the same SAEs, or None where none were made.

    Returns:
        Columns as the fields of :class:`~sae_pipeline.analysis.verdicts.Finding`, the headline of each claim first among its rows.
    """
    rows = [row for name in ORDER for row in CLAIMS[name](Test(name, evidence, study, matching))]
    return pd.DataFrame([asdict(row) for row in judged_together(rows, 1 - evidence.confidence)], columns=[field.name for field in fields(Finding)])
