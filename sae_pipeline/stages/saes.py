"""The SAE stage: all arms of a cell, trained side by side on one activation stream and stored one by one."""

from __future__ import annotations

import math
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sae_pipeline.stages import activations, slices, subject
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.stages.warm_starts import identified, remember, with_contents
from sae_pipeline.store import Artifact, Draft, digest, files_digest, write_json
from sae_pipeline.study import Arm, Cell, HookPoint, d_sae_of, expansion_key
from sae_pipeline.study import cell as study_cell

if TYPE_CHECKING:
    from sae_pipeline.saes.divergence import Divergence

STAGE = "saes"
SAE_FILES = ("cfg.json", "sae_weights.safetensors")
"""The SAE itself; the other files say how its training went."""

DIVERGED = "diverged"
DIVERGENCE_FILE = "divergence.json"
"""All that an arm that diverged leaves, with the ``status`` :data:`DIVERGED`: it is not trained again until its configuration changes."""


@dataclass(frozen=True)
class TrainedCell:
    """A cell and its SAEs by arm label; an arm that diverged has a record of that in place of an SAE."""

    cell: Cell
    saes: dict[str, Artifact]
    diverged: dict[str, Artifact]

    @classmethod
    def of(cls, cell: Cell, artifacts: dict[str, Artifact]) -> TrainedCell:
        """The cell, what its arms left told apart."""
        live = {label: artifact for label, artifact in artifacts.items() if artifact.summary.get("status") != DIVERGED}
        return cls(cell, live, {label: artifact for label, artifact in artifacts.items() if label not in live})

    @property
    def version(self) -> str:
        """Identity of the whole cell: changes when an arm is added, removed or trained differently."""
        return digest(STAGE, sorted((label, artifact.fingerprint) for label, artifact in (self.saes | self.diverged).items()))


def _identity(arm: Arm, expansion: float, source: Artifact, shuffle_tokens: int) -> tuple[str, dict[str, Any]]:
    inputs = {"arm": arm.identity(), "expansion": expansion, "activations": source.fingerprint, "shuffle_tokens": shuffle_tokens}
    inputs["batch_size"] = source.summary["batch_size"]  # decides the blocks that are shuffled; an automatic one is not in the study
    return digest(STAGE, slices.VERSIONS[STAGE], inputs), inputs


def expected(ctx: StudyContext, mix: str, point: HookPoint, expansion: float) -> tuple[Cell, dict[str, str]]:
    """The cell, and the fingerprint of every arm that can be identified: none without activations or without knowing its warm start."""
    cell = identified(ctx.home, study_cell(ctx.study, mix, point, expansion))
    source = activations.find(ctx, mix, point)
    if source is None:
        return cell, {}
    shuffle = ctx.study.activations.shuffle_tokens
    return cell, {label: _identity(arm, cell.expansion, source, shuffle)[0] for label, arm in cell.arms.items()}


def partial(ctx: StudyContext, mix: str, point: HookPoint, expansion: float) -> TrainedCell:
    """Every arm of the cell that is in the store, however many are missing."""
    cell, fingerprints = expected(ctx, mix, point, expansion)
    found = {label: ctx.store.find(STAGE, fingerprint) for label, fingerprint in fingerprints.items()}
    return TrainedCell.of(cell, {label: artifact for label, artifact in found.items() if artifact is not None})


def find(ctx: StudyContext, mix: str, point: HookPoint, expansion: float) -> TrainedCell | None:
    """The cell, if every one of its arms has been trained or has diverged."""
    if activations.find(ctx, mix, point) is None:
        return None
    trained = partial(ctx, mix, point, expansion)
    declared = study_cell(ctx.study, mix, point, expansion).arms
    return trained if len(trained.saes) + len(trained.diverged) == len(declared) else None


def need(ctx: StudyContext, mix: str, point: HookPoint, expansion: float) -> TrainedCell:
    """The cell, every arm of which must have been trained or have diverged."""
    source = activations.need(ctx, mix, point)
    declared = study_cell(ctx.study, mix, point, expansion)
    cell = identified(ctx.home, declared)
    if len(cell.arms) < len(declared.arms):
        cell = with_contents(declared)  # says which folder is missing
    shuffle = ctx.study.activations.shuffle_tokens
    return TrainedCell.of(
        cell, {label: ctx.store.open(STAGE, _identity(arm, cell.expansion, source, shuffle)[0]) for label, arm in cell.arms.items()}
    )


def train(ctx: StudyContext, mix: str, point: HookPoint, expansion: float) -> TrainedCell:
    """Train the arms of a cell that are not in the store; a killed run goes on from each arm's last checkpoint.

    An arm that diverged is published as a record of that: the next call returns it as such and does not train it again.

    Raises:
        TrainingError: arms diverged in this call; raised when the others have been published.
    """
    if (done := find(ctx, mix, point, expansion)) is not None:
        return done  # without its warm starts, which may be gone since
    cell = with_contents(study_cell(ctx.study, mix, point, expansion))
    remember(ctx.home, cell)
    if not cell.arms:
        return TrainedCell(cell, {}, {})
    source = activations.need(ctx, mix, point)
    d_sae = d_sae_of(expansion, source.summary["d_model"])
    published: dict[str, Artifact] = {}
    drafts: dict[str, Draft] = {}
    with ExitStack() as stack:
        for label, (fingerprint, inputs) in sorted(
            ((name, _identity(arm, cell.expansion, source, ctx.study.activations.shuffle_tokens)) for name, arm in cell.arms.items()),
            key=lambda item: item[1][0],
        ):
            draft = stack.enter_context(ctx.store.draft(STAGE, fingerprint, inputs, resumable=True))
            if isinstance(draft, Artifact):
                published[label] = draft
            else:
                drafts[label] = draft
        if drafts:
            published |= _train_missing(ctx, cell, d_sae, source, drafts)
    return TrainedCell.of(cell, {label: published[label] for label in cell.arms})


def _train_missing(ctx: StudyContext, cell: Cell, d_sae: int, source: Artifact, drafts: dict[str, Draft]) -> dict[str, Artifact]:
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
    saes: dict[str, Artifact] = {}
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
        for arm in diverged:
            _mark(drafts[arm.name], arm)
        raise DivergedArms(where, diverged, {label: sae.summary for label, sae in saes.items()})
    return saes


def _mark(draft: Draft, divergence: Divergence) -> None:
    """Publish that an arm diverged, with nothing of what it had become."""
    for left_over in draft.path.glob("[!.]*"):
        left_over.unlink()
    loss = divergence.loss if math.isfinite(divergence.loss) else None  # JSON knows no NaN
    record = {"status": DIVERGED, "step": divergence.step, "steps": divergence.steps, "loss": loss, "learning_rate": divergence.learning_rate}
    write_json(draft.path / DIVERGENCE_FILE, record)
    draft.publish(record)


def diverged_rows(trained: TrainedCell) -> list[dict[str, Any]]:
    """A row per arm of a cell that diverged: what it was, and where it was stopped. ``loss`` is NaN where it was not finite."""
    cell, rows = trained.cell, []
    for label, artifact in trained.diverged.items():
        arm, found = cell.arms[label], artifact.summary
        where = {
            "sae_id": cell.sae_id(label),
            "mix": cell.mix,
            "layer": cell.point.layer,
            "site": cell.point.site,
            "expansion": float(cell.expansion),
        }
        what = {"arm": label, "architecture": arm.architecture, "sparsity": float(arm.sparsity), "tokens": arm.tokens}
        loss = math.nan if found["loss"] is None else found["loss"]
        rows.append(where | what | {name: found[name] for name in ("step", "steps")} | {"loss": loss, "learning_rate": found["learning_rate"]})
    return rows


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
