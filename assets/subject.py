"""The subject model: trained here when it is bundled, otherwise recorded."""

import dagster as dg

from assets.executors import ray_resources
from assets.names import explained, key
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

    shape = study.subject.bundled
    origin = (
        f"trained here on the study's own text, {shape.n_layers} blocks of width {shape.d_model}"
        if bundled
        else f"{study.subject.model}" + (f" at {study.subject.revision}" if study.subject.revision else "")
    )
    control = " with randomised weights, as a control" if study.subject.weights == "randomised" else ""

    @dg.asset(
        key=asset_key,
        deps=[key(study, "sources", name) for name in slices.bundled_sources(study)] if bundled else [],
        code_version=slices.code_version("subject", slices.subject(study)),
        group_name="subject",
        kinds={"pytorch", "huggingface"},
        pool="gpu",
        op_tags=ray_resources(study),
        check_specs=[spec] if bundled else [],
        description=explained(
            f"The language model whose activations are studied: {origin}{control}.",
            reads=f"{shape.tokens:,} tokens, evenly from the sources it is trained on." if bundled else "the checkpoint.",
            makes=("a Hugging Face checkpoint with its tokenizer, and " if bundled else "") + "a record of its shape, weights and tokenizer by hash.",
        ),
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
