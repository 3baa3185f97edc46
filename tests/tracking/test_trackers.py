"""A finished study in TensorBoard, MLflow and Weights & Biases, read back with each one's own library."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_study import SmallStudy
from typer.testing import CliRunner

from sae_pipeline.cli import app
from sae_pipeline.stages import tables, tracking
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import load_study


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_study_data: dict[str, Any]) -> tuple[str, Path]:
    """One cell per mix of two seeds: (study file, home)."""
    folder = tmp_path_factory.mktemp("tracked")

    def one_cell(data: dict[str, Any]) -> None:
        data["activations"]["layers"], data["saes"]["expansions"], data["saes"]["monitor_every"] = [1], [2], 8

    path = SmallStudy(folder / "toy.yaml", small_study_data).write(one_cell)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAE_HOME", str(folder / "home"))
        assert CliRunner().invoke(app, ["run", path]).exit_code == 0
    return path, folder / "home"


@pytest.fixture
def ctx(finished: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> StudyContext:
    monkeypatch.setenv("SAE_HOME", str(finished[1]))
    return StudyContext.open(load_study(finished[0]))


@pytest.fixture
def stored(ctx: StudyContext) -> dict[str, pd.DataFrame]:
    """Tables of the study as they lie in the store."""
    gathered = tables.need(ctx)
    return {name: pd.read_parquet(gathered.file(f"{name}.parquet")) for name in ("saes", "training", "sae_metrics")}


def test_tensorboard_reads_back_curves_and_metrics(ctx: StudyContext, stored: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert tracking.hand_over(ctx, "tensorboard", str(tmp_path)) == (4, str(tmp_path))
    sae_id = stored["saes"]["sae_id"][0]
    events = EventAccumulator(str(tmp_path / "toy" / sae_id)).Reload()
    curve = stored["training"][stored["training"]["sae_id"] == sae_id]
    assert [(point.step, pytest.approx(point.value, rel=1e-6)) for point in events.Scalars("train/loss")] == list(
        zip(curve["step"], curve["loss"], strict=True)
    )
    row = stored["sae_metrics"].query("sae_id == @sae_id and evaluation_set == 'stories'").iloc[0]
    assert events.Scalars("stories/explained_variance")[0].value == pytest.approx(row["explained_variance"], rel=1e-6)


def test_mlflow_reads_back_curves_metrics_and_configuration(ctx: StudyContext, stored: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    place = f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking.hand_over(ctx, "mlflow", place)[0] == 4
    client = MlflowClient(tracking_uri=place)
    runs = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    assert set(by_name) == set(stored["saes"]["sae_id"])
    for row in stored["saes"].to_dict("records"):
        run = by_name[row["sae_id"]]
        assert (run.data.params["architecture"], run.data.params["k"]) == ("topk", "4")
        curve = stored["training"][stored["training"]["sae_id"] == row["sae_id"]]
        history = client.get_metric_history(run.info.run_id, "train/mse")
        assert {point.step: point.value for point in history} == dict(zip(curve["step"], curve["mse"], strict=True))
        metrics = stored["sae_metrics"].query("sae_id == @row['sae_id'] and evaluation_set == 'recipes'").iloc[0]
        assert run.data.metrics["recipes/dense_share_at_0.8"] == metrics["dense_share@0.8"]


def test_wandb_runs_lie_on_disk_and_nothing_is_sent(ctx: StudyContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert tracking.hand_over(ctx, "wandb", str(tmp_path))[0] == 4
    folders = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 4
    for folder in folders:
        (log,) = folder.glob("*.wandb")
        assert log.stat().st_size > 0


@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow", "wandb"])
def test_what_a_tracker_has_already_is_not_given_again(tracker: str, ctx: StudyContext, tmp_path: Path) -> None:
    place = f"sqlite:///{tmp_path}/mlflow.db" if tracker == "mlflow" else str(tmp_path)
    assert [tracking.hand_over(ctx, tracker, place)[0] for _ in range(2)] == [4, 0]


def test_the_events_of_another_sae_are_not_mixed_in(ctx: StudyContext, stored: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    taken = tmp_path / "toy" / stored["saes"]["sae_id"][0]
    taken.mkdir(parents=True)
    with pytest.raises(Exception, match="found another; move it away"):
        tracking.hand_over(ctx, "tensorboard", str(tmp_path))


def test_the_command_says_how_many_went_where(finished: tuple[str, Path], ctx: StudyContext, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["track", finished[0], "--with", "tensorboard", "--to", str(tmp_path), "--json"])
    assert json.loads(result.stdout.strip().splitlines()[-1]) == {"study": "toy", "tracker": "tensorboard", "place": str(tmp_path), "new": 4}


def test_an_unknown_tracker_is_refused_in_one_sentence(ctx: StudyContext) -> None:
    with pytest.raises(Exception, match="--with: expected one of tensorboard, mlflow, wandb, found 'paper'"):
        tracking.hand_over(ctx, "paper", None)


def test_a_library_that_is_missing_is_named_with_how_to_get_it(ctx: StudyContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "wandb":
            raise ModuleNotFoundError("No module named 'wandb'", name="wandb")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Exception, match=r"found no module wandb; `pip install -e \.\[wandb\]` adds it"):
        tracking.hand_over(ctx, "wandb", str(tmp_path))
