"""The SAE stage: all arms of a cell, trained side by side on one activation stream and stored one by one."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from sae_pipeline.stages import activations, slices, subject
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.stages.warm_starts import with_contents
from sae_pipeline.store import Artifact, Draft, digest, files_digest
from sae_pipeline.study import Arm, Cell, HookPoint, d_sae_of, expansion_key
from sae_pipeline.study import cell as study_cell

STAGE = "saes"
SAE_FILES = ("cfg.json", "sae_weights.safetensors")
"""The SAE itself; the other files say how its training went."""


@dataclass(frozen=True)
class TrainedCell:
    """A cell and its SAEs by arm label."""

    cell: Cell
    saes: dict[str, Artifact]

    @property
    def version(self) -> str:
        """Identity of the whole cell: changes when an arm is added, removed or trained differently."""
        return digest(STAGE, sorted((label, sae.fingerprint) for label, sae in self.saes.items()))


def _identity(arm: Arm, expansion: float, source: Artifact, shuffle_tokens: int) -> tuple[str, dict[str, Any]]:
    inputs = {"arm": arm.identity(), "expansion": expansion, "activations": source.fingerprint, "shuffle_tokens": shuffle_tokens}
    inputs["batch_size"] = source.summary["batch_size"]  # decides the blocks that are shuffled; an automatic one is not in the study
    return digest(STAGE, slices.VERSIONS[STAGE], inputs), inputs


def find(ctx: StudyContext, mix: str, point: HookPoint, expansion: float) -> TrainedCell | None:
    """The cell, if every one of its arms has been trained."""
    source = activations.find(ctx, mix, point)
    if source is None:
        return None
    cell = with_contents(study_cell(ctx.study, mix, point, expansion))
    found = {
        label: ctx.store.find(STAGE, _identity(arm, cell.expansion, source, ctx.study.activations.shuffle_tokens)[0])
        for label, arm in cell.arms.items()
    }
    present = {label: sae for label, sae in found.items() if sae is not None}
    return TrainedCell(cell, present) if len(present) == len(found) else None


def need(ctx: StudyContext, mix: str, point: HookPoint, expansion: float) -> TrainedCell:
    """The cell, every arm of which must have been trained."""
    source = activations.need(ctx, mix, point)
    cell = with_contents(study_cell(ctx.study, mix, point, expansion))
    return TrainedCell(
        cell,
        {
            label: ctx.store.open(STAGE, _identity(arm, cell.expansion, source, ctx.study.activations.shuffle_tokens)[0])
            for label, arm in cell.arms.items()
        },
    )


def train(ctx: StudyContext, mix: str, point: HookPoint, expansion: float) -> TrainedCell:
    """Train the arms of a cell that are not in the store; a killed run goes on from each arm's last checkpoint.

    Raises:
        TrainingError: arms diverged; raised when the others have been published, so that the next call trains those alone.
    """
    cell = with_contents(study_cell(ctx.study, mix, point, expansion))
    if not cell.arms:
        return TrainedCell(cell, {})
    source = activations.need(ctx, mix, point)
    d_sae = d_sae_of(expansion, source.summary["d_model"])
    saes: dict[str, Artifact] = {}
    drafts: dict[str, Draft] = {}
    with ExitStack() as stack:
        for label, (fingerprint, inputs) in sorted(
            ((name, _identity(arm, cell.expansion, source, ctx.study.activations.shuffle_tokens)) for name, arm in cell.arms.items()),
            key=lambda item: item[1][0],
        ):
            draft = stack.enter_context(ctx.store.draft(STAGE, fingerprint, inputs, resumable=True))
            if isinstance(draft, Artifact):
                saes[label] = draft
            else:
                drafts[label] = draft
        if drafts:
            _train_missing(ctx, cell, d_sae, source, drafts, saes)
    return TrainedCell(cell, {label: saes[label] for label in cell.arms})


def _train_missing(ctx: StudyContext, cell: Cell, d_sae: int, source: Artifact, drafts: dict[str, Draft], saes: dict[str, Artifact]) -> None:
    """Train the drafts, one pass over the stream per data seed, and publish each."""
    from sae_pipeline.activations.stream import ActivationStream
    from sae_pipeline.saes.divergence import DivergedArms
    from sae_pipeline.saes.memory import memory_budget
    from sae_pipeline.saes.trainer import train_arms

    by_data_seed: dict[int, list[str]] = defaultdict(list)
    for label in cell.arms:
        if label in drafts:
            by_data_seed[cell.arms[label].data_seed].append(label)
    where = f"{cell.mix} {cell.point.key} {expansion_key(cell.expansion)}"
    failures: list[DivergedArms] = []
    for data_seed, labels in by_data_seed.items():
        with ctx.compute.lease() as device:
            rows = activations.training_rows(ctx, cell.mix, cell.point, device)
            try:
                summaries = train_arms(
                    {label: drafts[label].path for label in labels},
                    {label: cell.arms[label] for label in labels},
                    stream=ActivationStream(rows, data_seed, ctx.study.activations.shuffle_tokens),
                    d_model=source.summary["d_model"],
                    d_sae=d_sae,
                    checkpoint_every=ctx.study.saes.checkpoint_every,
                    monitor_every=ctx.study.saes.monitor_every,
                    memory_bytes=memory_budget(device, ctx.study.compute.memory_gib),
                    device=device,
                    label=where,
                    metadata=provenance(ctx, cell.point, source),
                )
            except DivergedArms as failure:
                failures.append(failure)
                summaries = failure.summaries
        for label, summary in summaries.items():
            # What is measured of the machine is no content: only the SAE itself is.
            files = [drafts[label].path / name for name in SAE_FILES]
            saes[label] = drafts[label].publish(summary, content=files_digest(files))
    if failures:
        diverged = [arm for failure in failures for arm in failure.arms]
        raise DivergedArms(where, diverged, {label: sae.summary for label, sae in saes.items()})


def training_rows(trained: TrainedCell) -> list[dict[str, Any]]:
    """What was monitored while the SAEs of a cell were trained: a row per SAE and step, ``sae_id`` first."""
    from sae_pipeline.saes.monitoring import MONITORING_FILE, read_monitoring

    return [{"sae_id": trained.cell.sae_id(label)} | row for label, sae in trained.saes.items() for row in read_monitoring(sae.file(MONITORING_FILE))]


def provenance(ctx: StudyContext, point: HookPoint, source: Artifact) -> dict[str, Any]:
    """What an SAE's configuration says about where it comes from, in SAELens's words where it has them.

    Names of studies and mixes stay out: equal work is shared between studies, so its identity is that of its inputs.
    """
    model, activation = subject.need(ctx), ctx.study.activations
    return {
        "model_name": model.model,
        "model_revision": model.revision,
        "hook_name": source.summary["hook"],
        "hook_layer": point.layer,
        "context_size": activation.context_length,
        "prepend_bos": True,
        "subject_content": model.artifact.content,
        "corpus_content": source.inputs["corpus"],
        "activations_fingerprint": source.fingerprint,
    }
