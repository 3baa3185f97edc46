"""The graph of a study: it loads fast and without torch, explains itself, and stays where Dagster can judge staleness."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

import assets
import resources
from assets import study_definitions
from sae_pipeline.study import Study, load_study

REPOSITORY = Path(__file__).resolve().parents[2]
QUICKSTART = REPOSITORY / "studies/quickstart.yaml"
PROBE = """
import sys
import dagster
before = {name.partition(".")[0] for name in sys.modules}
import sae_pipeline.definitions
print(*sorted({name.partition(".")[0] for name in sys.modules} - before))
"""
OURS = {"assets", "resources", "sae_pipeline"}


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return study_definitions(load_study(QUICKSTART))


def test_importing_the_definitions_imports_little_beside_dagster() -> None:
    answer = subprocess.run([sys.executable, "-W", "ignore", "-c", PROBE], capture_output=True, text=True, check=True).stdout
    third_party = {name for name in answer.split() if name.lstrip("_") not in sys.stdlib_module_names and not name.startswith("_")} - OURS
    # Dagster imports pydantic and yaml itself; sqlalchemy is what its event log speaks, for the errors it raises.
    assert third_party <= {"sqlalchemy"}


def test_no_root_package_is_shadowed_by_another_of_the_same_name() -> None:
    for package in (assets, resources):
        assert package.__file__ is not None
        assert Path(package.__file__).resolve().parent.parent == REPOSITORY


def test_every_shipped_study_gives_loadable_definitions() -> None:
    for path in (REPOSITORY / "studies").rglob("*.yaml"):
        dg.Definitions.validate_loadable(study_definitions(load_study(path)))


def test_workspace_lists_studies_that_exist() -> None:
    import sae_pipeline.definitions as module

    for block in yaml.safe_load((REPOSITORY / "workspace.yaml").read_text())["load_from"]:
        target = block["python_module"]
        assert target["module_name"] == module.__name__
        assert isinstance(getattr(module, target["attribute"]), dg.Definitions)
    with pytest.raises(AttributeError):
        _ = module.no_such_study


def test_telemetry_is_off_in_the_settings_every_home_gets() -> None:
    settings = yaml.safe_load((REPOSITORY / "dagster.yaml").read_text())
    assert settings["telemetry"] == settings["nux"] == {"enabled": False}
    assert settings["concurrency"]["pools"]["granularity"] == "op"


def test_every_asset_explains_itself(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for key in graph.toposorted_asset_keys:
        node = graph.get(key)
        assert len(node.description or "") > 20, key
        assert node.group_name != "default", key
        if node.is_materializable:
            assert node.code_version, key
            assert node.kinds, key
            assert node.owners == ["team:interpretability"], key
            assert node.automation_condition is not None, key


def test_a_lane_reads_from_corpus_to_scorecard(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()

    def parents(*path: str) -> set[str]:
        return {"/".join(key.path[1:]) for key in graph.get(dg.AssetKey(["quickstart", *path])).parent_keys}

    sets = ("prose", "mixed", "instructions", "code")
    assert parents("PRE", "corpus") == {"subject_model", "sources/prose", "sources/instructions"}
    assert parents("PROSE", "corpus") == {"subject_model", "sources/prose"}
    assert parents("PRE", "activations") == {"subject_model", "PRE/corpus"}
    assert parents("PRE", "saes") == {"PRE/activations"}
    assert parents("PRE", "metrics") == {"PRE/saes", *(f"held_out/{s}/baseline" for s in sets)}
    assert parents("PRE", "scorecard") == {"PRE/metrics"}
    mixes = ("PROSE", "PRE", "EQ", "INS", "INSTRUCT")
    assert parents("text_tables") == {*(f"{mix}/corpus" for mix in mixes), *(f"held_out/{s}/corpus" for s in sets)}
    assert parents("match_tables") == {"feature_matches", "layer_matches"}
    assert parents("metric_tables") == {*(f"{mix}/scorecard" for mix in mixes), "text_tables", "match_tables", "concept_tables"}
    assert parents("findings") == {"metric_tables", "match_tables"}
    assert parents("comparison_report") == {"metric_tables", "text_tables", "match_tables", "concept_tables", "findings"}


def test_derived_sources_follow_what_they_are_made_from() -> None:
    studies = REPOSITORY / "studies"
    faithful = study_definitions(load_study(studies / "faithful.yaml")).resolve_asset_graph()
    specialised = study_definitions(load_study(studies / "specialised.yaml")).resolve_asset_graph()

    def parents(graph: Any, *path: str) -> set[str]:
        return {"/".join(key.path[1:]) for key in graph.get(dg.AssetKey(list(path))).parent_keys}

    assert parents(faithful, "faithful", "sources", "samples") == {"subject_model"}
    assert parents(specialised, "specialised", "sources", "statistics") == {"sources/prose"}
    assert parents(specialised, "specialised", "sources", "statistics_dense") == {"sources/prose", "subject_model"}
    # The bundled subject is trained on what comes from outside, never on what is made with it.
    assert parents(faithful, "faithful", "subject_model") == {"sources/prose", "sources/instructions"}


def test_a_study_of_two_sites_has_a_partition_for_each_of_them() -> None:
    data = yaml.safe_load((REPOSITORY / "studies/small.yaml").read_text())
    data["activations"] |= {"layers": [0, 1], "site": ["resid_post", "mlp_out"]}
    graph = study_definitions(Study.model_validate(data)).resolve_asset_graph()
    partitions = graph.get(dg.AssetKey(["small", "PRE", "activations"])).partitions_def.get_partition_keys()
    assert list(partitions) == ["L00", "L01", "L00-mlp_out", "L01-mlp_out"]


def test_no_partition_depends_on_a_hundred_others(definitions: dg.Definitions) -> None:
    # Dagster does not see that one of 100 or more upstream partitions changed.
    graph = definitions.resolve_asset_graph()
    for key in graph.toposorted_asset_keys:
        node = graph.get(key)
        for parent in (graph.get(up) for up in node.parent_keys):
            if not parent.is_partitioned:
                continue
            mapping = graph.get_partition_mapping(key, parent.key)
            for partition in node.partitions_def.get_partition_keys() if node.is_partitioned else [None]:
                wanted = node.partitions_def.subset_with_partition_keys([partition]) if partition else None
                upstream = mapping.get_upstream_mapped_partitions_result_for_partitions(wanted, node.partitions_def, parent.partitions_def)
                assert len(list(upstream.partitions_subset.get_partition_keys())) < 100, (key, parent.key)


def test_only_the_activations_run_all_partitions_at_once(definitions: dg.Definitions) -> None:
    # One run stamps one data version on all of its partitions, which is right for layers of one pass and for nothing else.
    graph = definitions.resolve_asset_graph()
    for key in graph.toposorted_asset_keys:
        policy = graph.get(key).backfill_policy
        single = policy is not None and policy.max_partitions_per_run is None and graph.get(key).is_partitioned
        assert single == (key.path[-1] == "activations"), key
