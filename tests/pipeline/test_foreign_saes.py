"""SAEs made elsewhere are evaluated by a study as its own are, and change nothing of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
import torch
from click.testing import Result
from small_study import SmallStudy
from typer.testing import CliRunner

from sae_pipeline.cli import app
from sae_pipeline.errors import BadInput
from sae_pipeline.metrics.registry import METRICS
from sae_pipeline.saes.formats import FORMATS
from sae_pipeline.saes.inference import InferenceSAE
from sae_pipeline.stages import cleaning, foreign, tables
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.stages.declared_points import chosen_point, declared_point
from sae_pipeline.store import Home
from sae_pipeline.study import HookPoint, load_study

pytestmark = pytest.mark.slow

OWN = "MORE.L01.x02.topk-k4-t6144-s0"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def answer(*arguments: str) -> dict[str, Any]:
    """The JSON answer of a command that must succeed."""
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.strip().splitlines()[-1])


def random_sae(**metadata: Any) -> InferenceSAE:
    """48 latents on activations 32 wide, top 5."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(48, 32, generator=generator), dim=1)
    return InferenceSAE(rows.t().contiguous(), torch.zeros(48), rows, 0.1 * torch.randn(32, generator=generator), "topk", k=5, metadata=metadata)


def written(sae: InferenceSAE, folder: Path, form: str = "saelens") -> str:
    folder.mkdir(parents=True)
    FORMATS[form].write(sae, folder)
    return str(folder)


class Evaluated:
    """A study of one cell a mix, and a foreign SAE that was evaluated before and after the study was run."""

    def __init__(self, folder: Path, study: SmallStudy) -> None:
        def one_cell(data: dict[str, Any]) -> None:
            data["activations"]["layers"] = [1]
            data["saes"] |= {"expansions": [2], "arms": [{"architecture": "topk", "k": 4}]}

        self.folder, self.home, self.path = folder, Home(folder / "home"), study.write(one_cell)
        self.place = written(random_sae(hook_name="blocks.1.hook_resid_post", model_name="gpt2"), folder / "from elsewhere")
        self.first_result = invoke("evaluate", self.place, "--study", self.path)
        self.stages_before = {path.name for path in self.home.store.root.glob("[!.]*")}
        self.before = answer("evaluate", self.place, "--study", self.path)
        self.run = answer("run", self.path)
        self.tables = self.tables_now()
        self.after = answer("evaluate", self.place, "--study", self.path)

    def context(self) -> StudyContext:
        return StudyContext.open(load_study(self.path), self.home)

    def tables_now(self) -> tuple[str, str]:
        gathered = tables.need(self.context())
        return gathered.fingerprint, gathered.content

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.home.warehouse("toy")), read_only=True) as connection:
            return connection.execute(query).fetchall()


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, small_study_data: dict[str, Any]) -> Evaluated:
    folder = tmp_path_factory.mktemp("foreign")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAE_HOME", str(folder / "home"))
        return Evaluated(folder, SmallStudy(folder / "toy.yaml", small_study_data))


@pytest.fixture(autouse=True)
def _home(evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAE_HOME", str(evaluated.home.root))


def test_baselines_that_are_missing_are_computed_and_nothing_is_trained(evaluated: Evaluated) -> None:
    assert evaluated.first_result.exit_code == 0, evaluated.first_result.output
    assert {"baselines", "evaluations", "foreign_saes"} <= evaluated.stages_before
    assert not {"saes", "metrics", "tables"} & evaluated.stages_before
    assert evaluated.before["computed"] == 0  # the first call did it
    assert evaluated.before["own"] == []


def test_the_answer_has_every_metric_on_every_held_out_set_beside_the_own_saes(evaluated: Evaluated) -> None:
    found = evaluated.after
    assert [row["evaluation_set"] for row in found["metrics"]] == ["stories", "recipes"]
    assert {row["sae_id"] for row in found["own"]} == {OWN, OWN.replace("MORE", "LESS")}
    for row in found["metrics"] + found["own"]:
        assert set(METRICS) <= set(row)
    assert found["metrics"] == evaluated.before["metrics"]
    assert found["sae_id"].startswith("foreign.L01.x1.5.from elsewhere-")
    assert 0 < found["metrics"][0]["l0"] <= 5


def test_the_table_names_it_and_the_note_names_the_other_model(evaluated: Evaluated) -> None:
    shown = invoke("evaluate", evaluated.place, "--study", evaluated.path)
    assert evaluated.after["sae_id"] in shown.output
    assert OWN in shown.output
    assert "trained on the model gpt2" in shown.output


@pytest.mark.parametrize("form", FORMATS)
def test_an_own_sae_that_comes_back_in_any_format_has_the_figures_it_has_at_home(evaluated: Evaluated, tmp_path: Path, form: str) -> None:
    exported = str(tmp_path / "layers.1")
    assert invoke("export", OWN, "--to", exported, "--study", evaluated.path, "--format", form).exit_code == 0
    found = answer("evaluate", exported, "--study", evaluated.path)
    assert (found["layer"], found["site"], found["notes"]) == (1, "resid_post", [])
    own = {row["evaluation_set"]: row for row in found["own"] if row["sae_id"] == OWN}
    for row in found["metrics"]:
        for name in METRICS:
            expected = own[row["evaluation_set"]][name]
            assert row[name] == (None if expected is None else pytest.approx(expected, rel=1e-5, abs=1e-6)), name


def test_tables_of_the_own_saes_do_not_change_and_nothing_is_stale_afterwards(evaluated: Evaluated) -> None:
    assert evaluated.run["failed"] == 0
    assert evaluated.tables_now() == evaluated.tables
    assert answer("plan", evaluated.path)["stale"] == []
    assert answer("run", evaluated.path)["launched"] == 0


def test_the_warehouse_holds_it_in_tables_with_the_columns_of_the_own_ones(evaluated: Evaluated) -> None:
    for own in ("sae_metrics", "document_sums", "position_sums", "feature_stats", "health"):
        columns = [{row[:2] for row in evaluated.rows(f"DESCRIBE {name}")} for name in (own, f"foreign_{own}")]
        assert columns[0] == columns[1], own
    place, d_sae, activation, k = evaluated.rows(
        f"SELECT place, d_sae, activation, k FROM foreign_saes WHERE sae_id = '{evaluated.after['sae_id']}'"
    )[0]
    assert (place, d_sae, activation, k) == (evaluated.place, 48, "topk", 5)
    stored = dict(evaluated.rows(f"SELECT evaluation_set, explained_variance FROM foreign_sae_metrics WHERE sae_id = '{evaluated.after['sae_id']}'"))
    assert stored == {row["evaluation_set"]: row["explained_variance"] for row in evaluated.after["metrics"]}
    assert evaluated.rows("SELECT count(*) FROM sae_metrics WHERE sae_id LIKE 'foreign.%'") == [(0,)]


def test_the_rubrics_of_the_study_mark_it(evaluated: Evaluated) -> None:
    """A random SAE explains next to nothing."""
    marks = {(row["metric"], row["evaluation_set"]): row["mark"] for row in evaluated.after["health"] if row["rubric"] == "house.v1"}
    assert marks["explained_variance", "stories"] == "poor"
    assert "house.v1: " in invoke("evaluate", evaluated.place, "--study", evaluated.path).output


def test_every_column_is_in_the_manual_page(evaluated: Evaluated) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/warehouse.md").read_text()
    for (table,) in evaluated.rows("SELECT table_name FROM duckdb_tables() WHERE starts_with(table_name, 'foreign_')"):
        assert f"## `{table}`" in page
        for name, kind, *_ in evaluated.rows(f"DESCRIBE {table}"):
            assert f"`{name}`" in page, f"{table}.{name}"
            assert kind != '"NULL"', f"{table}.{name} has no type"


def test_cleaning_up_keeps_what_was_evaluated(evaluated: Evaluated) -> None:
    """All but tables that were gathered before another SAE came."""
    gone = cleaning.reclaim([evaluated.context()], dry_run=True)
    assert [item for item in gone if item.stage in ("foreign_saes", "evaluations", "absorption")] == []
    current = foreign.find(evaluated.context())
    assert current is not None
    assert current.fingerprint not in {item.fingerprint for item in gone}
    assert answer("evaluate", evaluated.place, "--study", evaluated.path)["computed"] == 0


def test_an_sae_of_another_width_is_refused_in_one_sentence(evaluated: Evaluated, tmp_path: Path) -> None:
    sae = InferenceSAE(torch.ones(8, 4), torch.zeros(4), torch.ones(4, 8), torch.zeros(8), "relu", metadata={"hook_name": "blocks.1.hook_resid_post"})
    refused = invoke("evaluate", written(sae, tmp_path / "narrow"), "--study", evaluated.path)
    assert isinstance(refused.exception, BadInput)
    assert "expected an SAE of activations that are 32 wide" in str(refused.exception)
    assert "found one of width 8" in str(refused.exception)


def test_an_sae_that_does_not_say_its_layer_needs_the_option(evaluated: Evaluated, tmp_path: Path) -> None:
    place = written(random_sae(), tmp_path / "unnamed")
    refused = invoke("evaluate", place, "--study", evaluated.path)
    assert isinstance(refused.exception, BadInput)
    assert "give --layer" in str(refused.exception)
    found = answer("evaluate", place, "--study", evaluated.path, "--layer", "1")
    assert found["metrics"][0]["explained_variance"] == evaluated.after["metrics"][0]["explained_variance"]


def test_a_layer_that_the_study_lacks_is_refused_with_those_it_has(evaluated: Evaluated, tmp_path: Path) -> None:
    place = written(random_sae(hook_name="blocks.0.hook_mlp_out"), tmp_path / "elsewhere")
    refused = invoke("evaluate", place, "--study", evaluated.path)
    assert isinstance(refused.exception, BadInput)
    assert "(layer 1 resid_post), found one of layer 0 mlp_out" in str(refused.exception)


@pytest.mark.parametrize(
    ("metadata", "folder", "expected"),
    [
        ({"hook_name": "blocks.8.hook_resid_pre"}, "x", (8, "resid_pre")),
        ({"hook_name": "blocks.8.attn.o.hook_out"}, "x", (8, "attn_out")),
        ({"hook_name": "blocks.8.attn.hook_z"}, "layers.3", (8, "attn.hook_z")),
        ({"hook_name": "resid_post_layer_8", "hook_layer": 8}, "x", (8, "resid_post")),
        ({"hook_name": "mlp_out", "hook_layer": 2}, "x", (2, "mlp_out")),
        ({}, "layers.3", (3, "resid_post")),
        ({}, "h.11.mlp", (11, "mlp_out")),
        ({}, "gpt_neox.layers.5.attention", (5, "attn_out")),
        ({"hook_layer": 4}, "my-sae", (4, None)),
        ({}, "my-sae", (None, None)),
    ],
)
def test_the_hook_point_is_read_as_each_library_writes_it(metadata: dict[str, Any], folder: str, expected: tuple[int | None, str | None]) -> None:
    assert declared_point(metadata, folder) == expected


def test_what_enters_a_block_is_what_left_the_one_before(evaluated: Evaluated) -> None:
    """TransformerLens has two names for the residual stream between two blocks."""
    point, notes = chosen_point(load_study(evaluated.path), "some/sae", (2, "resid_pre"), None, None)
    assert point == HookPoint(1, "resid_post")
    assert "what leaves a block enters the next" in notes[0]


def test_what_the_user_names_counts_before_what_the_sae_says(evaluated: Evaluated) -> None:
    point, notes = chosen_point(load_study(evaluated.path), "some/sae", (0, "mlp_out"), 1, "resid_post")
    assert point == HookPoint(1, "resid_post")
    assert notes == ("it says it belongs to layer 0 mlp_out, and is evaluated at layer 1 resid_post as asked for",)
