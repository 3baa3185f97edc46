"""`sae-pipeline match`: two folders of any format in, match ratios and shares out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sae_pipeline.cli import main
from sae_pipeline.saes.formats import FORMATS
from sae_pipeline.saes.inference import InferenceSAE


def write(folder: Path, W_dec: torch.Tensor, form: str) -> Path:
    """A TopK SAE with a tied encoder in a library's format."""
    folder.mkdir()
    sae = InferenceSAE(W_dec.T.contiguous(), torch.zeros(len(W_dec)), W_dec, torch.zeros(W_dec.shape[1]), "topk", k=1)
    FORMATS[form].write(sae, folder)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit code of ``sae-pipeline match`` with these arguments."""
    monkeypatch.setattr("sys.argv", ["sae-pipeline", "match", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_two_formats_are_matched_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Four of eight directions of the wider SAE are all that the narrower has."""
    narrow, wide = write(tmp_path / "narrow", torch.eye(8)[:4], "saelens"), write(tmp_path / "wide", torch.eye(8), "sparsify")
    assert run(monkeypatch, str(narrow), str(wide), "--json") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    ratios = {(row["sae"], row["other"]): row["match_ratio"] for row in found["matches"] if (row["side"], row["unit"]) == ("decoder", "feature")}
    assert ratios == {(str(narrow), str(wide)): 1.0, (str(wide), str(narrow)): 0.5}
    assert [row["shared_feature_ratio"] for row in found["one_to_one"]] == [1.0]
    assert found["splits"] == {"narrower": str(narrow), "parents": [0, 4]}
    assert sum(map(sum, found["top_cosines"][0]["counts"])) == 4 * 4

    assert run(monkeypatch, str(narrow), str(wide)) == 0
    assert "shared_feature_ratio" in capsys.readouterr().out


def test_what_cannot_be_matched_is_answered_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other activations, a threshold that is no cosine, and a folder that is not there."""
    first, second = write(tmp_path / "first", torch.eye(8), "saelens"), write(tmp_path / "second", torch.eye(4), "saelens")
    for arguments, said in (
        ((str(first), str(second)), "widths of 8 and 4"),
        ((str(first), str(first), "--threshold", "1.5"), "found 1.5"),
        ((str(first), str(tmp_path / "none")), "expected the folder of an SAE"),
    ):
        assert run(monkeypatch, *arguments) == 2
        assert said in capsys.readouterr().err
