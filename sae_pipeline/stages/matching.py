"""The matching stages: SAEs that differ in one factor compared at each hook point, arms compared across layers, and the tables of all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sae_pipeline.matching.pairs import Choice, DeclaredSae, choose
from sae_pipeline.stages import activations, evaluation, saes, slices
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.stages.of_hook_points import Measured, found_everywhere, needed_everywhere, publish_frames, read_frames, stacked
from sae_pipeline.store import Artifact, digest
from sae_pipeline.study import HookPoint, Study, cells

if TYPE_CHECKING:
    import pandas as pd

    from sae_pipeline.matching.study_tables.shelf import MatchableSae

STAGE = "matching"
LAYERS_STAGE = "layer_matches"
TABLES_STAGE = "match_tables"
MEASURED = (
    "match_pairs",
    "matches",
    "top_cosines",
    "one_to_one",
    "splits",
    "feature_neighbours",
    "orphans",
    "orphan_features",
    "coverage",
)
"""Tables of a hook point."""
ACROSS_LAYERS = ("layer_matches", "directions_map")
"""Tables of the arms that are compared across layers."""


@dataclass(frozen=True)
class Evaluated:
    """A trained SAE with what is known of its latents."""

    declared: DeclaredSae
    sae: Artifact
    latents: Artifact
    """Its evaluation on the set that tells which latents are alive."""

    @property
    def identity(self) -> list[str]:
        """Its name and what it is made of."""
        return [self.declared.sae_id, self.sae.fingerprint, self.latents.fingerprint]


def _of_cell(trained: saes.TrainedCell, latents: dict[str, Artifact]) -> list[Evaluated]:
    return [Evaluated(DeclaredSae(trained.cell, label), sae, latents[label]) for label, sae in trained.saes.items()]


def _find_evaluated(ctx: StudyContext, point: HookPoint, mixes: Iterable[str], expansions: Iterable[float]) -> list[Evaluated] | None:
    """Every SAE of some cells of a hook point, if all have been trained and evaluated; those that diverged are left out."""
    baseline = evaluation.find_baseline(ctx, ctx.study.read_for_matching, point)
    found: list[Evaluated] = []
    for mix in mixes:
        for expansion in expansions:
            trained = saes.find(ctx, mix, point, expansion)
            if baseline is None or trained is None:
                return None
            evaluated = {label: evaluation.find_evaluation(ctx, sae, baseline) for label, sae in trained.saes.items()}
            there = {label: artifact for label, artifact in evaluated.items() if artifact is not None}
            if len(there) < len(evaluated):
                return None
            found += _of_cell(trained, there)
    return found


def _need_evaluated(ctx: StudyContext, point: HookPoint, mixes: Iterable[str], expansions: Iterable[float]) -> list[Evaluated]:
    """The same, all of which must exist."""
    baseline = evaluation.need_baseline(ctx, ctx.study.read_for_matching, point)
    found: list[Evaluated] = []
    for mix in mixes:
        for expansion in expansions:
            trained = saes.need(ctx, mix, point, expansion)
            found += _of_cell(trained, {label: evaluation.need_evaluation(ctx, sae, baseline) for label, sae in trained.saes.items()})
    return found


def _matchable(evaluated: Iterable[Evaluated], device: str) -> dict[str, MatchableSae]:
    import pandas as pd

    from sae_pipeline.matching.study_tables.shelf import MatchableSae

    return {
        each.declared.sae_id: MatchableSae(
            each.declared, partial(evaluation.load_sae, each.sae, device), pd.read_parquet(each.latents.file("latents.parquet"))
        )
        for each in evaluated
    }


# ------------------------------------------------------------------------------------------------ one hook point


def declared_choice(study: Study, point: HookPoint) -> Choice:
    """The pairs that the study asks for at a hook point, before anything is trained.

    Raises:
        BadInput: a pair that it names differs in more than one factor.
    """
    return _choice(study, point, [DeclaredSae(cell, label) for cell in cells(study) if cell.point == point for label in cell.arms])


def _choice(study: Study, point: HookPoint, there: list[DeclaredSae]) -> Choice:
    settings = slices.matching(study)
    ids = {sae.sae_id for sae in there}
    here = [pair for pair in settings["pairs"] if ids.issuperset(pair)]
    return choose(there, factors=settings["factors"], most=settings["pairs_per_factor"], named=here)


def _read(ctx: StudyContext) -> str | None:
    """The lane whose activations are correlated, if that is asked for."""
    return f"held_out/{ctx.study.read_for_matching}" if slices.matching(ctx.study)["correlation_tokens"] else None


def _identity(ctx: StudyContext, point: HookPoint, evaluated: list[Evaluated], read: Artifact | None) -> tuple[str, dict[str, Any]]:
    inputs = {
        "study": slices.matching(ctx.study),
        "layer": point.layer,
        "site": point.site,
        "saes": [each.identity for each in evaluated],  # in order: of equally wide SAEs the first is looked for in the second
        "activations": read.fingerprint if read else None,
    }
    return digest(STAGE, slices.VERSIONS[STAGE], inputs), inputs


def find(ctx: StudyContext, point: HookPoint) -> Artifact | None:
    """What was matched at a hook point, if the stage has run."""
    lane = _read(ctx)
    read = activations.find(ctx, lane, point) if lane else None
    evaluated = _find_evaluated(ctx, point, ctx.study.mixes, ctx.study.saes.expansions)
    if evaluated is None or (lane and read is None):
        return None
    return ctx.store.find(STAGE, _identity(ctx, point, evaluated, read)[0])


def _needed(ctx: StudyContext, point: HookPoint) -> tuple[list[Evaluated], Artifact | None]:
    lane = _read(ctx)
    return _need_evaluated(ctx, point, ctx.study.mixes, ctx.study.saes.expansions), activations.need(ctx, lane, point) if lane else None


def need(ctx: StudyContext, point: HookPoint) -> Artifact:
    """What was matched at a hook point, which must exist."""
    return ctx.store.open(STAGE, _identity(ctx, point, *_needed(ctx, point))[0])


def match(ctx: StudyContext, point: HookPoint) -> Artifact:
    """Match the SAEs of a hook point, those of all mixes and expansions, that differ in exactly one factor."""
    evaluated, read = _needed(ctx, point)
    fingerprint, inputs = _identity(ctx, point, evaluated, read)
    with ctx.store.draft(STAGE, fingerprint, inputs) as draft:
        if isinstance(draft, Artifact):
            return draft
        from sae_pipeline.matching.study_tables.hook_point import match_hook_point
        from sae_pipeline.matching.study_tables.shelf import first_tokens

        settings = slices.matching(ctx.study)
        with ctx.compute.lease() as device:
            summary = match_hook_point(
                draft.path,
                saes=_matchable(evaluated, device),
                choice=_choice(ctx.study, point, [each.declared for each in evaluated]),
                threshold=settings["threshold"],
                activations=first_tokens(activations.shards(read), settings["correlation_tokens"]) if read else None,
            )
        return draft.publish(summary)


# ------------------------------------------------------------------------------------------------ across layers


def _layers_identity(ctx: StudyContext, evaluated: list[Evaluated]) -> tuple[str, dict[str, Any]]:
    inputs = {"study": slices.layer_matches(ctx.study), "saes": [each.identity for each in evaluated]}
    return digest(LAYERS_STAGE, slices.VERSIONS[LAYERS_STAGE], inputs), inputs


def _cell_of_layers(ctx: StudyContext) -> tuple[list[str], list[float]]:
    mix, expansion = ctx.study.matched_across_layers
    return [mix], [expansion]


def find_layers(ctx: StudyContext) -> Artifact | None:
    """What was matched across layers, if the stage has run."""
    found = [_find_evaluated(ctx, point, *_cell_of_layers(ctx)) for point in ctx.study.hook_points]
    there = [of_point for of_point in found if of_point is not None]
    if len(there) < len(found):
        return None
    return ctx.store.find(LAYERS_STAGE, _layers_identity(ctx, [each for of_point in there for each in of_point])[0])


def _needed_layers(ctx: StudyContext) -> list[Evaluated]:
    return [each for point in ctx.study.hook_points for each in _need_evaluated(ctx, point, *_cell_of_layers(ctx))]


def need_layers(ctx: StudyContext) -> Artifact:
    """What was matched across layers, which must exist."""
    return ctx.store.open(LAYERS_STAGE, _layers_identity(ctx, _needed_layers(ctx))[0])


def match_layers(ctx: StudyContext) -> Artifact:
    """Match the same arm across the layers of a site, and lay its decoder directions out in the plane where that is asked for."""
    evaluated = _needed_layers(ctx)
    fingerprint, inputs = _layers_identity(ctx, evaluated)
    with ctx.store.draft(LAYERS_STAGE, fingerprint, inputs) as draft:
        if isinstance(draft, Artifact):
            return draft
        from sae_pipeline.matching.study_tables.directions_map import map_frame
        from sae_pipeline.matching.study_tables.layers import arms_across_layers, layer_frame
        from sae_pipeline.matching.study_tables.shelf import Shelf

        settings = slices.layer_matches(ctx.study)
        arms = arms_across_layers([each.declared for each in evaluated], settings["sparsities"])
        with ctx.compute.lease() as device:
            shelf = Shelf(_matchable(evaluated, device))
            matched = layer_frame(arms.values(), shelf, settings["threshold"])
            mapped = map_frame([sae for of_arm in arms.values() for sae in of_arm] if settings["umap"] else [], shelf, settings["seed"])
        for name, frame in zip(ACROSS_LAYERS, (matched, mapped), strict=True):
            frame.to_parquet(draft.path / f"{name}.parquet", index=False)
        settings_found = sorted({setting for _, setting in arms})
        return draft.publish({"settings": settings_found, "pairs": len(matched) // 2, "mapped_latents": len(mapped)})


# ------------------------------------------------------------------------------------------------ all of them


def _tables_identity(ctx: StudyContext, matched: Measured, layers: Artifact) -> tuple[str, dict[str, Any]]:
    inputs = {"matching": {point.key: artifact.fingerprint for point, artifact in matched.items()}, "layers": layers.fingerprint}
    return digest(TABLES_STAGE, slices.VERSIONS[TABLES_STAGE], inputs), inputs


def find_tables(ctx: StudyContext) -> Artifact | None:
    """The matching tables, if the study asks for them and they have been gathered."""
    if ctx.study.matching is None or (layers := find_layers(ctx)) is None or (matched := found_everywhere(ctx, find)) is None:
        return None
    return ctx.store.find(TABLES_STAGE, _tables_identity(ctx, matched, layers)[0])


def need_tables(ctx: StudyContext) -> Artifact:
    """The matching tables, which must exist."""
    return ctx.store.open(TABLES_STAGE, _tables_identity(ctx, needed_everywhere(ctx, need), need_layers(ctx))[0])


def gather(ctx: StudyContext) -> Artifact:
    """Stack the tables of every hook point, and put those across layers beside them."""
    matched, layers = needed_everywhere(ctx, need), need_layers(ctx)
    fingerprint, inputs = _tables_identity(ctx, matched, layers)
    with ctx.store.draft(TABLES_STAGE, fingerprint, inputs) as draft:
        if isinstance(draft, Artifact):
            return draft
        return publish_frames(draft, {name: stacked(matched, name) for name in MEASURED} | read_frames(layers, ACROSS_LAYERS))


def frames(artifact: Artifact) -> dict[str, pd.DataFrame]:
    """The matching tables by name."""
    return read_frames(artifact, (*MEASURED, *ACROSS_LAYERS))
