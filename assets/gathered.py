"""What a study measures at every hook point, gathered into one table per kind of row: the same asset for every such study."""

from collections.abc import Callable, Collection, Sequence

import dagster as dg

from assets.displays import table
from assets.names import explained, key
from assets.results import result
from resources import ComputeResource, HomeResource
from sae_pipeline.stages import slices
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact
from sae_pipeline.study import Study

ASKED_FOR = {"positions": "position_tables", "matching": "match_tables", "concepts": "concept_tables"}
"""Sections of a study file that ask for such a study, and the asset that holds its tables."""


def gathered_tables(study: Study, sections: Collection[str] = tuple(ASKED_FOR)) -> list[dg.AssetKey]:
    """The assets that hold the tables of these sections, where the study asks for them."""
    return [key(study, ASKED_FOR[section]) for section in sections if getattr(study, section) is not None]


def gathered_asset(
    study: Study, section: str, gather: Callable[[StudyContext], Artifact], parts: Sequence[str], part: slices.Slice, description: str
) -> dg.AssetsDefinition:
    """The tables of all hook points.

    Args:
        study: the study.
        section: of the study file, a key of :data:`ASKED_FOR`; also the asset's group.
        gather: the stage's own gathering.
        parts: names of the assets gathered.
        part: the slice of the study that these assets read.
        description: one sentence for the UI.
    """

    @dg.asset(
        key=key(study, ASKED_FOR[section]),
        deps=[key(study, name) for name in parts],
        code_version=slices.code_version(ASKED_FOR[section], part),
        group_name=section,
        kinds={"parquet"},
        description=explained(
            description, reads=f"{', '.join(parts)}, at every hook point.", makes="the tables counted below; the warehouse has them too."
        ),
    )
    def tables(home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        opened = home.open()
        gathered = gather(StudyContext(study, opened, compute.open(opened)))
        return result([gathered], version=gathered.content, figures={"table": table({"table": t, "rows": n} for t, n in gathered.summary.items())})

    return tables
