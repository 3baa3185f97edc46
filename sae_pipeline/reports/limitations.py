"""The section on limitations: what the study cannot say, from its own sizes."""

from __future__ import annotations

from collections.abc import Iterator

from sae_pipeline.analysis.tables import SETTING, design, regime
from sae_pipeline.analysis.verdicts import ALL_LAYERS
from sae_pipeline.reports.blocks import Section
from sae_pipeline.reports.frames import StudyFrames
from sae_pipeline.reports.matching.comparisons import both_ways, decoder_features
from sae_pipeline.reports.wording import counted, decimal, layer_name, listed
from sae_pipeline.study import Study


def limitations_section(study: Study, frames: StudyFrames) -> Section:
    """One point per limit, those of the caller first and what could not be tested last."""
    points = (
        *frames.limitations,
        *_subject(study, frames),
        *_design(frames),
        *_inference(study, frames),
        *_matching(frames),
        *_untested(frames),
    )
    return Section("limitations", "Limitations", points=points)


def _subject(study: Study, frames: StudyFrames) -> Iterator[str]:
    if frames.subject is not None:
        shape = ", ".join(f"{name} {frames.subject[name]}" for name in ("d_model", "n_layers") if name in frames.subject)
        yield (
            f"One subject model ({study.subject.model}{', ' + shape if shape else ''}) at {listed(study.activations.sites)}, "
            f"{listed([layer_name(layer) for layer in study.activations.layers])}: nothing here speaks for other models, sites or layers."
        )


def _design(frames: StudyFrames) -> Iterator[str]:
    """What was trained, and how."""
    saes = frames.tables.saes
    settings = design(saes).groupby(list(SETTING))["replicate"].nunique()
    alone = int((settings == 1).sum())
    if frames.tables.document_sums.empty:
        yield f"{alone} of {counted(len(settings), 'setting')} have one seed."
    elif alone:
        yield f"{alone} of {counted(len(settings), 'setting')} were trained with one seed; where no seeds are averaged, intervals leave out the noise of training."
    else:
        yield f"Every setting was trained with {int(settings.min())} seeds or more; with so few, the spread between seeds is itself uncertain."
    yield f"SAEs saw at most {int(saes['tokens'].max()):,} training tokens; effects may shrink or grow with longer training."
    yield "Learning rate, warm-up and the other training settings were not tuned per cell, so a factor's effect includes how well those settings suit it."
    if len({regime(expansion) for expansion in saes["expansion"]}) > 1:
        yield "Undercomplete and overcomplete dictionaries are different tasks; they are never ranked together."


def _inference(study: Study, frames: StudyFrames) -> Iterator[str]:
    """What intervals and verdicts leave out."""
    documents = frames.tables.baseline_sums.groupby("evaluation_set")["document"].nunique()
    if len(documents):
        few = documents.idxmin()
        yield (
            f"Intervals resample held-out documents; the smallest set ({few}) has {counted(int(documents.min()), 'document')}. They describe text like these "
            "documents and no other."
        )
    tested = frames.findings[frames.findings["verdict"] != "not_testable"]
    if len(tested) > 1:
        corrected = "p_adjusted" in tested.columns and tested["p_adjusted"].notna().any()
        rate = 1 - study.analysis.confidence
        yield (
            f"{len(tested)} intervals were drawn at {100 * study.analysis.confidence:g} % each: about {decimal(len(tested) * rate, 1)} would miss zero on their own if nothing had an effect"
            + (
                "; verdicts of claims are corrected for the number of claims, the intervals themselves are not."
                if corrected
                else ", and nothing here is corrected for their number."
            )
        )


def _untested(frames: StudyFrames) -> Iterator[str]:
    """How many claims the study has nothing to say about; why not stands with each of them."""
    heads = frames.findings[frames.findings["scope"] == ALL_LAYERS]
    skipped = heads.loc[heads["verdict"] == "not_testable", "id"].nunique()
    if skipped:
        yield f"{skipped} of {counted(heads['id'].nunique(), 'claim')} could not be tested here; the findings say of each what it needs."


def _matching(frames: StudyFrames) -> Iterator[str]:
    """What the shares of latents in common depend on."""
    if frames.matching is None or frames.matching["matches"].empty:
        return
    rows, pairs = decoder_features(frames.matching["matches"]), both_ways(frames.matching)
    threshold = decimal(float(rows["threshold"].iloc[0]), 2)
    apart = decimal(100 * (pairs["greedy_shared_feature_ratio"] - pairs["shared_feature_ratio"]).mean(), 1)
    yield (
        f"Latents count as found above cosine {threshold}; another threshold gives other shares. Where partners may repeat, shares are higher than one to one "
        f"(here by {apart} percentage points), and by more at a lower threshold, where chance grows too."
    )
    yield "Two latents with the same direction may still fire on different tokens, and latents that fire alike may differ in direction; a match of directions is no proof of one meaning."
    most = pairs.groupby("factor").size()
    if most.max() > 1:
        said = listed([counted(int(count), f"{factor} pair") for factor, count in most.items()], 8)
        yield f"Pairs of SAEs share SAEs with other pairs, so they are not independent: {said} are fewer observations than they seem."
