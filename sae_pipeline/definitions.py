"""Binds assets and resources for Dagster.

``defs`` is the study named by ``SAE_STUDY``, by default the quickstart. Any other attribute is the study file of that
name in ``studies/``, which is how ``workspace.yaml`` lists several.
"""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg

from assets import study_definitions
from sae_pipeline.notices import hide_notices
from sae_pipeline.study import load_study

STUDIES = Path(__file__).resolve().parent.parent / "studies"

hide_notices()
defs: dg.Definitions = study_definitions(load_study(os.environ.get("SAE_STUDY") or STUDIES / "quickstart.yaml"))


def __getattr__(name: str) -> dg.Definitions:
    if name.startswith("_") or not (STUDIES / f"{name}.yaml").exists():
        raise AttributeError(name)
    return study_definitions(load_study(STUDIES / f"{name}.yaml"))
