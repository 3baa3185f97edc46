"""What a launch says when all is computed and the store that machines share cannot take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_study import SmallStudy

from assets import study_definitions
from sae_pipeline.errors import SharedStoreError
from sae_pipeline.launcher import waves
from sae_pipeline.launcher.instance import open_instance
from sae_pipeline.launcher.outcome import Outcome
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Home
from sae_pipeline.study import load_study


def test_a_store_that_goes_away_before_the_upload_fails_the_upload(small_study: SmallStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(ctx: StudyContext, *, quarantines: bool = True) -> None:
        if not quarantines:  # at the end, when nothing is computed any more
            raise SharedStoreError("SAE_STORE: expected to read and write s3://lab/sae, found: no network; check the network")

    monkeypatch.setattr(waves, "upload_finished", away)
    monkeypatch.setattr(waves, "_round", lambda *_: Outcome())
    study, home = load_study(small_study.write()), Home(tmp_path / "home")
    instance: Any = open_instance(home)
    outcome = waves.run(study_definitions(study), instance, StudyContext.open(study, home), define=study_definitions)
    assert outcome.failures == [("upload", "SAE_STORE: expected to read and write s3://lab/sae, found: no network; check the network")]
