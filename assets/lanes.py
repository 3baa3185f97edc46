"""The graph of a study: a lane of assets per corpus mix and evaluation set, joined in tables, findings and a report."""

import dagster as dg

from assets.activations import activations_asset
from assets.automation import automation, stale_only
from assets.axes import axes
from assets.concepts import concept_tables_asset, concepts_asset
from assets.corpora import corpus_asset, text_asset
from assets.executors import executor
from assets.freshness import freshness
from assets.history import history_asset, rubric_review_asset, versions_asset
from assets.matching import feature_matches_asset, layer_matches_asset, match_tables_asset
from assets.metrics import baseline_asset, metrics_asset, scorecard_asset
from assets.positions import position_tables_asset, positions_asset
from assets.reports import findings_asset, report_asset, tables_asset
from assets.saes import saes_asset
from assets.sources import derived_source_asset, derived_sources, source_asset
from assets.subject import subject_asset
from resources import ComputeResource, HomeResource, WarehouseResource
from sae_pipeline.execution import Execution
from sae_pipeline.study import Study


def study_definitions(study: Study) -> dg.Definitions:
    """Everything Dagster needs for one study. Importing it reads the study file and imports no torch."""
    assets = dg.with_source_code_references(_with_policies(study, lanes(study)))
    home = HomeResource()
    definitions = dg.Definitions(
        assets=[*assets, *(source_asset(study, name) for name in study.sources if name not in derived_sources(study))],
        resources={
            "home": home,
            "compute": ComputeResource(device=study.compute.device, threads=study.compute.threads or Execution.from_environment().threads),
            "warehouse": WarehouseResource(home=home),
        },
        executor=executor(),
    )
    return dg.Definitions.merge(definitions, automation(study))


def lanes(study: Study) -> list[dg.AssetsDefinition]:
    """The materialisable assets, upstream first."""
    assets = [subject_asset(study), *(derived_source_asset(study, name) for name in derived_sources(study))]
    for name in study.held_out:
        lane = ("held_out", name)
        assets += [corpus_asset(study, lane), activations_asset(study, lane), baseline_asset(study, name)]
    for mix in study.mixes:
        assets += [corpus_asset(study, (mix,)), activations_asset(study, (mix,))]
        assets += [saes_asset(study, mix), metrics_asset(study, mix), scorecard_asset(study, mix)]
    if study.positions is not None:
        assets += [positions_asset(study), position_tables_asset(study)]
    if study.matching is not None:
        assets += [feature_matches_asset(study), layer_matches_asset(study), match_tables_asset(study)]
    assets.append(text_asset(study))
    if study.concepts is not None:
        assets += [concepts_asset(study), concept_tables_asset(study)]
    if study.schedules.evaluation is not None:
        assets.append(history_asset(study))
    assets += [tables_asset(study), findings_asset(study), report_asset(study)]
    if study.schedules.versions is not None:
        assets.append(versions_asset(study))
    if study.schedules.rubric_review is not None:
        assets.append(rubric_review_asset(study))
    return assets


def _with_policies(study: Study, assets: list[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
    """What holds for every asset is said once: who owns it, its place in the study, when it reruns, how old it may get."""
    upstream: dict[dg.AssetKey, set[dg.AssetKey]] = {}
    for asset in assets:  # upstream first
        direct = set(asset.dependency_keys)
        upstream[asset.key] = direct.union(*(upstream.get(key, set()) for key in direct))

    def apply(spec: dg.AssetSpec) -> dg.AssetSpec:
        condition = stale_only(sorted(upstream[spec.key]))
        return spec.replace_attributes(
            automation_condition=condition,
            owners=["team:interpretability"],
            tags=axes(study, spec.key),
            freshness_policy=freshness(study, spec.key),
        )

    return list(dg.map_asset_specs(apply, assets))
