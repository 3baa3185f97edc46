"""The subject model: trained here when it is bundled, otherwise recorded."""

import dagster as dg

from assets.names import key
from assets.results import check, result
from resources import ComputeResource, HomeResource
from sae_pipeline.stages import slices, subject
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import Study


def subject_asset(study: Study) -> dg.AssetsDefinition:
    """The language model under study."""
    asset_key, bundled = key(study, "subject_model"), study.subject.model == "bundled"
    spec = dg.AssetCheckSpec(
        "beats_a_unigram_model", asset=asset_key, blocking=True, description="Held-out loss is well below word frequencies alone."
    )

    @dg.asset(
        key=asset_key,
        deps=[key(study, "sources", name) for name in slices.bundled_sources(study)] if bundled else [],
        code_version=slices.code_version("subject", slices.subject(study)),
        group_name="subject",
        kinds={"pytorch", "huggingface"},
        pool="gpu",
        check_specs=[spec] if bundled else [],
        description="The language model whose activations are studied" + (", trained here on the study's own text." if bundled else "."),
    )
    def subject_model(home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        opened = home.open()
        prepared = subject.prepare(StudyContext(study, opened, compute.open(opened)))
        record = prepared.record
        checks = []
        if bundled:
            margin = record["unigram_loss"] - record["held_out_loss"]
            checks = [check(asset_key, spec.name, margin > 0.5, margin_in_nats=margin, needed=0.5, what_to_do="raise subject.bundled.tokens")]
        return result([prepared.artifact], version=prepared.artifact.content, figures=record, checks=checks)

    return subject_model
