"""What a study asks for that cannot be trained is refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_study import SmallStudy

from sae_pipeline.errors import StudyError
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.stages.preflight import preflight
from sae_pipeline.store import Home
from sae_pipeline.study import load_study


@pytest.mark.parametrize(
    ("arm", "expansion", "words"),
    [
        ({"batch_size": 2_049}, 2, "found batch_size 2,049 and 2,048 tokens; lower batch_size or raise tokens"),
        ({"batch_size": 10**23}, 2, "lower batch_size or raise tokens|needs about .*; lower saes.expansions or batch_size"),
        ({"batch_size": 211, "accumulate": 2}, 2, "found batch_size 211 and accumulate 2; change one of them"),
        ({}, 1e9, "expected SAEs that fit into this machine's .* GiB, found that .* needs about .*; lower saes.expansions"),
        ({}, 1e30, "expected SAEs that fit into this machine's"),
    ],
    ids=["batch above the budget", "batch beyond any memory", "batch that does not divide", "a wide SAE", "an absurd SAE"],
)
def test_steps_that_cannot_be_taken_are_refused(small_study: SmallStudy, tmp_path: Path, arm: dict[str, Any], expansion: float, words: str) -> None:
    """At once, in one sentence, and for the whole study: no cell is half trained when it is found."""

    def edit(data: dict[str, Any]) -> None:
        data["saes"]["expansions"] = [expansion]
        data["saes"]["arms"] = [{"architecture": "topk", "k": 4, "tokens": 2_048, "batch_size": 64} | arm]

    with pytest.raises(StudyError, match=words):
        preflight(StudyContext.open(load_study(small_study.write(edit)), Home(tmp_path / "home")))
