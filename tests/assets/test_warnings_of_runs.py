"""What the engine warns of while a run lasts is printed, and is an event of that run's log."""

import logging
from pathlib import Path

import dagster as dg
import pytest

from resources import HomeResource, WarehouseResource

engine = logging.getLogger("sae_pipeline.saes.finishing")


@dg.asset
def warned(home: HomeResource) -> None:
    engine.warning("%d %% of the latents are dead", 50)


@dg.asset
def warned_beside_a_warehouse(home: HomeResource, warehouse: WarehouseResource) -> None:
    engine.warning("%d %% of the latents are dead", 50)


def messages(instance: dg.DagsterInstance, run_id: str) -> list[tuple[int, str]]:
    return [(event.level, event.user_message) for event in instance.all_logs(run_id) if "latents" in event.user_message]


def materialize(tmp_path: Path, instance: dg.DagsterInstance, asset: dg.AssetsDefinition = warned) -> str:
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    home = HomeResource(root=str(tmp_path))
    resources = {"home": home, "warehouse": WarehouseResource(home=home)}
    return dg.materialize([asset], resources=resources, instance=instance, run_config=quiet).run_id


def test_a_warning_is_an_event_of_its_run_alone(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        first, second = materialize(tmp_path, instance), materialize(tmp_path, instance)
        for run in (first, second):
            assert messages(instance, run) == [(logging.WARNING, "50 % of the latents are dead")]


def test_a_warning_is_one_event_where_two_resources_hold_the_home(tmp_path: Path) -> None:
    handlers = list(logging.getLogger("sae_pipeline").handlers)
    with dg.DagsterInstance.ephemeral() as instance:
        run = materialize(tmp_path, instance, warned_beside_a_warehouse)
        assert messages(instance, run) == [(logging.WARNING, "50 % of the latents are dead")]
    assert logging.getLogger("sae_pipeline").handlers == handlers, "nothing is left when the run ends"


def test_a_warning_is_printed_once_where_nobody_set_up_logging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own, which a command does not have
    with dg.DagsterInstance.ephemeral() as instance:
        materialize(tmp_path, instance)
    assert capsys.readouterr().err.count("50 % of the latents are dead") == 1


def test_a_log_that_cannot_be_written_stops_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = dg.DagsterInstance.handle_new_event

    def refuse(instance: dg.DagsterInstance, event: dg.EventLogEntry, **more: object) -> None:
        if "latents" in event.user_message:
            raise OSError("no room")
        write(instance, event, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(dg.DagsterInstance, "handle_new_event", refuse)
    with dg.DagsterInstance.ephemeral() as instance:
        run = materialize(tmp_path, instance)
        assert messages(instance, run) == []
        assert instance.get_run_by_id(run).is_success  # type: ignore[union-attr]
