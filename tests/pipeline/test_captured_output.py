"""What runs print: left where it is printed, unless the home's settings name a place for copies."""

from pathlib import Path

import dagster as dg
import pytest

from sae_pipeline.launcher import open_instance
from sae_pipeline.store import Home


@dg.asset
def printing() -> None:
    print("printed by a step")


def materialize(home: Home) -> list[Path]:
    """The copies of what the asset printed."""
    with open_instance(home) as instance:
        assert dg.materialize([printing], instance=instance).success
    return [path for path in home.root.rglob("*.out") if "printed by a step" in path.read_text()]


def test_a_run_leaves_its_output_where_it_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert materialize(Home(tmp_path)) == []
    assert "printed by a step" in capfd.readouterr().out


def test_a_home_whose_settings_name_a_place_for_copies_gets_them(tmp_path: Path) -> None:
    home = Home(tmp_path)
    open_instance(home).dispose()
    copies = tmp_path / "copies"
    place = f"\ncompute_logs:\n  module: dagster._core.storage.local_compute_log_manager\n  class: LocalComputeLogManager\n  config: {{base_dir: {copies}}}\n"
    settings = home.dagster / "dagster.yaml"
    settings.write_text(settings.read_text() + place)
    assert [path.is_relative_to(copies) for path in materialize(home)] == [True]
