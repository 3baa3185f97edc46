"""Which part of the study each stage reads, and each stage's version: together the ``code_version`` of its assets.

A field that is not in a stage's slice cannot make that stage stale. Names, kinds and what is a partition (layers,
expansions) stay out of the slices of the work itself. Raise a version when the stage's *result* changes for an
unchanged study.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sae_pipeline.analysis.health.rubric_files import rubric_path
from sae_pipeline.corpora.chat import TEMPLATES_VERSION
from sae_pipeline.corpora.sources.records import READER_VERSION
from sae_pipeline.stages.warm_starts import contents_in_place_of_paths
from sae_pipeline.store import digest, file_sha256
from sae_pipeline.study import Study
from sae_pipeline.study.concept_sections import Concepts
from sae_pipeline.study.matching_section import Matching
from sae_pipeline.study.text_sections import External, Files, HuggingFace, Records, Retrieved, SelfGenerated

VERSIONS = {
    "subject": 1,
    "generated": 1,
    "retrieved": 2,
    "corpus": 3,
    "text": 2,
    "activations": 4,
    "saes": 5,
    "baselines": 4,
    "evaluations": 3,
    "spelling": 1,
    "absorption": 1,
    "metrics": 2,
    "scorecard": 5,
    "tables": 5,
    "findings": 6,
    "report": 8,
    "positions": 1,
    "position_tables": 1,
    "matching": 2,
    "layer_matches": 1,
    "match_tables": 1,
    "concepts": 2,
    "concept_tables": 1,
    "history": 2,
    "rubric_review": 2,
    "versions": 1,
    "foreign_saes": 1,
    "foreign_tables": 2,
}

Slice = dict[str, Any]


_RECIPES: dict[str, tuple[str, Slice]] = {}
"""Stage and part of the study behind every code version made in this process."""


def code_version(stage: str, part: Slice) -> str:
    """What Dagster compares to see that an asset's recipe changed."""
    made = digest(stage, VERSIONS[stage], part)
    _RECIPES[made] = stage, part
    return made


def program_update(recorded: str, made: str) -> tuple[str, int, int] | None:
    """(stage, its version then and now) where a recorded code version and the one made now differ in nothing else; None where the study does too."""
    if made not in _RECIPES:
        return None
    stage, part = _RECIPES[made]
    then = next((version for version in range(1, VERSIONS[stage]) if digest(stage, version, part) == recorded), None)
    return None if then is None else (stage, then, VERSIONS[stage])


def source(study: Study, name: str) -> Slice:
    """How a source is read or made. Paths stay out: its data version covers the contents, so a moved file changes nothing."""
    declared = study.sources[name]
    part: Slice = declared.model_dump(mode="json", exclude={"paths"} if isinstance(declared, Files) else None)
    if isinstance(declared, HuggingFace) and Path(declared.dataset).is_dir():
        part.pop("dataset")
    if isinstance(declared, Records):
        part["reader"] = READER_VERSION
        if declared.chat is not None:
            part["templates"] = TEMPLATES_VERSION
    if needs_subject(study, name):
        part |= {"context_length": study.activations.context_length, "dtype": study.subject.dtype}
    if isinstance(declared, Retrieved):
        part["source"] = source(study, declared.source)
        if declared.encoder != "subject" and Path(declared.encoder).is_dir():
            part.pop("encoder")  # known by its content, like the SAE below
        if declared.rerank is not None:
            part["rerank"].pop("sae")
    return part


def needs_subject(study: Study, name: str) -> bool:
    """Whether a source is made with the subject model, and so can only follow it."""
    declared = study.sources[name]
    if isinstance(declared, Retrieved):
        return (declared.method == "dense" and declared.encoder == "subject") or declared.rerank is not None
    return isinstance(declared, SelfGenerated)


def bundled_sources(study: Study) -> tuple[str, ...]:
    """The sources that the bundled subject is trained on, in the study's order."""
    return study.subject.bundled.sources or tuple(name for name, declared in study.sources.items() if isinstance(declared, External))


def subject(study: Study) -> Slice:
    """Which model; for the bundled one, also how it is trained."""
    model = "a local checkpoint" if Path(study.subject.model).is_dir() else study.subject.model  # known by its contents, wherever it lies
    part: Slice = {"model": model, "revision": study.subject.revision, "randomised": randomised(study)}
    if study.subject.trust_remote_code:
        part["trust_remote_code"] = True
    if study.subject.model == "bundled":
        part |= {
            "bundled": study.subject.bundled.model_dump(mode="json", exclude={"sources"}),
            "context_length": study.activations.context_length,
            "sources": {name: source(study, name) for name in bundled_sources(study)},
            "corpus": study.corpus.model_dump(mode="json", include={"seed", "held_out_share"}),
        }
    return part


def randomised(study: Study) -> int | None:
    """The seed that the subject's weights are drawn from when it is the randomised control, else None."""
    return study.subject.seed if study.subject.weights == "randomised" else None


def corpus(study: Study, shares: dict[str, float], tokens: int, *, held_out: bool) -> Slice:
    """How much of which source, from which side of the split, packed how."""
    return {
        "shares": shares,
        "sources": {name: source(study, name) for name, share in shares.items() if share > 0},
        "tokens": tokens,
        "context_length": study.activations.context_length,
        "held_out": held_out,
        "window": study.evaluation.window if held_out else None,
        "corpus": study.corpus.model_dump(mode="json", exclude=None if held_out else {"held_out_windows"}),
    }


def mix_corpus(study: Study, mix: str) -> Slice:
    """The corpus slice of a training mix."""
    return corpus(study, study.mixes[mix], study.activations.tokens, held_out=False)


def held_out_corpus(study: Study, name: str) -> Slice:
    """The corpus slice of an evaluation set."""
    declared = study.held_out[name]
    return corpus(study, declared.shares, declared.tokens, held_out=True)


def activations(study: Study) -> Slice:
    """How activations are computed and rounded; layer and site are a partition, and whether they are cached changes none of them."""
    return {"dtype": study.subject.dtype} | study.activations.model_dump(mode="json", include={"batch_size", "storage_dtype", "shard_tokens"})


def saes(study: Study, mix: str) -> Slice:
    """The arms of a mix and the order of their data; the expansion factors are partitions and not part of it."""
    arms = [
        contents_in_place_of_paths(group.model_dump(mode="json")) for group in study.saes.arms if group.only.mixes is None or mix in group.only.mixes
    ]
    defaults = contents_in_place_of_paths(study.saes.defaults.model_dump(mode="json"))
    return {"defaults": defaults, "arms": arms, "shuffle_tokens": study.activations.shuffle_tokens}


def baselines(study: Study) -> Slice:
    """How the raw activations of an evaluation set are measured."""
    return {"dtype": study.subject.dtype} | study.evaluation.model_dump(mode="json", exclude={"window", "top_contexts"})


def spelling(study: Study) -> Slice:
    """How many words the subject is asked to spell; read by the baselines' assets, so a new version of it is one of theirs too."""
    return {"dtype": study.subject.dtype} | study.evaluation.model_dump(mode="json", include={"spelling_words", "batch_size"})


def metrics(study: Study) -> Slice:
    """Which sets every SAE is evaluated on, and what is kept of its latents; the rest of how is in the baselines they share."""
    return {"held_out": sorted(study.held_out), "evaluation": baselines(study), "traced": traced(study)}


def traced(study: Study) -> Slice:
    """How many of each latent's strongest activations are kept, and of which set the tables show them: the first in-sample one."""
    return {"top_contexts": study.evaluation.top_contexts, "set": [*study.in_sample, *study.held_out][0]}


def positions(study: Study) -> Slice:
    """How the position study reads a hook point, and how its intervals are drawn."""
    evaluation_set, mix, expansion = study.read_for_positions
    return {
        "evaluation_set": evaluation_set,
        "mix": mix,
        "expansion": expansion,
        "tokens": study.positions.tokens if study.positions else 0,
        "dtype": study.subject.dtype,
        "batch_size": study.evaluation.batch_size,
        "resamples": study.analysis.model_dump(mode="json", include={"bootstrap_samples", "confidence", "seed"}),
    }


def matching(study: Study) -> Slice:
    """Which pairs of SAEs are matched at a hook point, and when two directions count as the same."""
    asked = study.matching or Matching()
    return asked.model_dump(mode="json", exclude={"layers", "umap"}) | {"evaluation_set": study.read_for_matching}


def layer_matches(study: Study) -> Slice:
    """Which arms are matched across layers, and whether and how their directions are laid out in the plane."""
    asked = study.matching or Matching()
    mix, expansion = study.matched_across_layers
    return {
        "threshold": asked.threshold,
        "evaluation_set": study.read_for_matching,
        "mix": mix,
        "expansion": expansion,
        "sparsities": asked.layers.sparsities,
        "umap": asked.umap,
        "seed": study.analysis.seed if asked.umap else None,
    }


def concepts(study: Study) -> Slice:
    """Which concepts and directions are looked for in which text, and how draws and intervals are made."""
    asked = study.concepts or Concepts()
    directions = asked.asked_directions(study.held_out)
    return asked.model_dump(mode="json", exclude={"evaluation_sets", "directions"}) | {
        "evaluation_sets": list(asked.read_sets(study.held_out)),
        "directions": {name: declared.model_dump(mode="json") for name, declared in directions.items()},
        "dtype": study.subject.dtype,
        "batch_size": study.evaluation.batch_size,
        "confidence": study.analysis.confidence,
        "seed": study.analysis.seed,
    }


def scorecard(study: Study, mix: str) -> Slice:
    """What a scorecard states beside the metrics: shares of the mix, kinds of the sets, and the rubrics as they read now."""
    return {
        "shares": [[source, study.mixes[mix].get(source, 0.0)] for source in study.sources],
        "kinds": {name: declared.kind for name, declared in study.held_out.items()},
        "rubrics": _rubrics(study),
    }


def _rubrics(study: Study) -> list[str]:
    """The rubrics by what their files hold."""
    return [file_sha256(rubric_path(name)) for name in study.analysis.rubrics]


def foreign(study: Study) -> Slice:
    """What the tables of foreign SAEs state beside their evaluations: kinds of the sets, and the rubrics as they read now."""
    return {"kinds": {name: declared.kind for name, declared in study.held_out.items()}, "rubrics": _rubrics(study)}


def tables(study: Study) -> Slice:
    """The shape of the study: what is gathered into the tables."""
    return {
        "name": study.name,
        "mixes": [list(shares.items()) for shares in study.mixes.values()],
        "lanes": [*study.mixes, *study.held_out],
        "hook_points": [point.key for point in study.hook_points],
        "expansions": study.saes.expansions,
    }


def text(study: Study) -> Slice:
    """Which corpora are described side by side."""
    return {"mixes": list(study.mixes), "held_out": list(study.held_out)}


def history(study: Study) -> Slice:
    """How changes between recorded evaluations are judged."""
    resamples = study.analysis.model_dump(mode="json", include={"bootstrap_samples", "confidence", "seed"})
    return resamples | {"tolerance": study.schedules.tolerance}


def findings(study: Study) -> Slice:
    """How estimates, intervals and verdicts are drawn."""
    held_out = [[name, declared.model_dump(mode="json")] for name, declared in study.held_out.items()]
    return {"analysis": study.analysis.model_dump(mode="json", exclude={"rubrics"}), "held_out": held_out}


def report(study: Study) -> Slice:
    """What the report says about the study itself."""
    return {
        "name": study.name,
        "description": study.description,
        "subject": study.subject.model_dump(mode="json"),
        "confidence": study.analysis.confidence,
        "rubrics": _rubrics(study),
    }
