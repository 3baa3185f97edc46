"""Text sources: an observable asset for what comes from outside, an ordinary one for what is sampled or retrieved here."""

import dagster as dg

from assets.axes import axes
from assets.executors import ray_resources
from assets.names import explained, key
from assets.results import result
from resources import ComputeResource, HomeResource
from sae_pipeline.stages import derived, slices, sources
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import Study
from sae_pipeline.study.text_sections import External, Retrieved

WORDS = {
    "installed_docs": "Docstrings of installed Python packages: technical prose that is on every machine.",
    "installed_code": "Source code of installed Python packages.",
    "installed_instructions": "Instruction-shaped pairs made from installed Python packages.",
    "files": "Local text files.",
    "huggingface": "A Hugging Face data set, streamed at a pinned revision.",
    "self_generated": "Text that the subject model samples by itself, from BOS alone.",
    "retrieved": "Documents of another source, found by keywords.",
}


def source_asset(study: Study, name: str) -> dg.SourceAsset | dg.AssetsDefinition:
    """A text source; observing it records the version of the text, so that new text makes its corpora stale."""
    declared, asset_key = study.sources[name], key(study, "sources", name)

    @dg.observable_source_asset(
        key=asset_key,
        group_name="sources",
        tags=axes(study, asset_key),
        metadata={"declared": declared.model_dump(mode="json", exclude_defaults=True)},
        description=f"{WORDS[declared.kind]} {_read_by(study, name)}\n\nObserving it records the version of the text: a hash of what it holds, or the "
        "commit of the hub. Where that changed, what is made from it is stale.",
    )
    def observed(home: HomeResource) -> dg.DataVersion:
        return dg.DataVersion(sources.observe(StudyContext.open(study, home.open()), name))

    return observed


def derived_source_asset(study: Study, name: str) -> dg.AssetsDefinition:
    """Text made from the subject model or from another source; made once and read like any other."""
    declared = study.sources[name]
    upstream = [key(study, "sources", declared.source)] if isinstance(declared, Retrieved) else []
    if slices.needs_subject(study, name):
        upstream.append(key(study, "subject_model"))

    @dg.asset(
        key=key(study, "sources", name),
        deps=upstream,
        code_version=slices.code_version("retrieved" if isinstance(declared, Retrieved) else "generated", slices.source(study, name)),
        group_name="sources",
        kinds={"parquet"},
        pool="gpu",
        op_tags=ray_resources(study),
        metadata={"declared": declared.model_dump(mode="json", exclude_defaults=True)},
        description=explained(
            f"{WORDS[declared.kind]} {_read_by(study, name)}",
            reads=", ".join(up.path[-1] for up in upstream) + ".",
            makes="documents that are stored once and read like those of any other source.",
        ),
    )
    def made(home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        opened = home.open()
        text = derived.make(StudyContext(study, opened, compute.open(opened)), name)
        return result([text], version=text.fingerprint, figures=text.summary)

    return made


def _read_by(study: Study, name: str) -> str:
    mixes = [mix for mix, shares in study.mixes.items() if shares.get(name, 0) > 0]
    sets = [held_out for held_out, declared in study.held_out.items() if declared.shares.get(name, 0) > 0]
    parts = [f"{where} {name}" for where, names in (("training mix", mixes), ("evaluation set", sets)) for name in names]
    return f"Part of {', '.join(parts)}." if parts else "Read by no mix and no evaluation set itself."


def derived_sources(study: Study) -> list[str]:
    """Names of the sources that are made here."""
    return [name for name, declared in study.sources.items() if not isinstance(declared, External)]
