"""Text sources: an observable asset for what comes from outside, an ordinary one for what is sampled or retrieved here."""

import dagster as dg

from assets.names import key
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
    declared = study.sources[name]

    @dg.observable_source_asset(key=key(study, "sources", name), group_name="sources", description=WORDS[declared.kind])
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
        description=WORDS[declared.kind],
    )
    def made(home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        opened = home.open()
        text = derived.make(StudyContext(study, opened, compute.open(opened)), name)
        return result([text], version=text.fingerprint, figures=text.summary)

    return made


def derived_sources(study: Study) -> list[str]:
    """Names of the sources that are made here."""
    return [name for name, declared in study.sources.items() if not isinstance(declared, External)]
