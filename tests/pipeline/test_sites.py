"""A study of two sites, with SAEs at one of them, through to its report; and the SAE they began with is removed afterwards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_study import SmallStudy
from test_warm_starts import given_sae
from typer.testing import CliRunner

from sae_pipeline.cli import app


def answer(*arguments: str) -> dict[str, Any]:
    """The JSON answer of a command that must succeed."""
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.strip().splitlines()[-1])


@pytest.mark.slow
def test_saes_at_one_of_two_sites_that_began_with_a_folder_that_is_gone(
    small_study: SmallStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other site's baselines belong to no SAE; and what has been trained needs its beginnings no more."""
    monkeypatch.setenv("SAE_HOME", str(tmp_path / "home"))
    given_sae(tmp_path / "a")

    def edit(data: dict[str, Any]) -> None:
        data["mixes"] = {"MORE": data["mixes"]["MORE"]}
        data["activations"] |= {"layers": [1], "site": ["resid_post", "mlp_out"]}
        data["saes"]["expansions"] = [2]
        arm = {"architecture": "topk", "k": 4, "only": {"sites": ["resid_post"]}}
        data["saes"]["arms"] = [arm | {"seeds": [0, 1]}, arm | {"warm_start": "a", "tokens": 2_048}]

    path = small_study.write(edit)
    first = answer("run", path)
    assert first["failed"] == 0
    assert Path(first["report"]).is_file()
    shutil.rmtree(tmp_path / "a")
    assert answer("run", path)["launched"] == 0
    assert {asset["state"] for asset in answer("status", path)["assets"]} == {"fresh"}
    assert len({row["sae_id"] for row in answer("saes", path)["saes"]}) == 3
