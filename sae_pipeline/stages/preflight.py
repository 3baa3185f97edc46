"""Checks before anything starts, so that bad input costs a second and not an hour."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sae_pipeline.errors import BadInput, SourceError, StorageError, StudyError, SubjectError
from sae_pipeline.execution import Execution
from sae_pipeline.matching.pairs import DeclaredSae, named_pairs
from sae_pipeline.saes.arm import Arm, check_division
from sae_pipeline.saes.memory import ESTIMATE_FACTOR, group_bytes
from sae_pipeline.stages import derived, saes, sources, warm_starts
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import Cell, Study, cells, d_sae_of
from sae_pipeline.study.preset_writing import giver

BYTES_PER_TOKEN = 12
"""Of a corpus: token id, document and position, int32 each."""

SIZES = {"n_layers": ("num_hidden_layers", "n_layer"), "d_model": ("hidden_size", "n_embd"), "context": ("max_position_embeddings", "n_positions")}
"""Where Hugging Face configurations keep the sizes a study has to fit, under their two families of names."""


def preflight(ctx: StudyContext) -> None:
    """Refuse a study that cannot run on this machine, as far as can be told without loading a model.

    Raises:
        BadInput: a layer, context length, sparsity, device, rubric or source that does not fit.
        StorageError: the home cannot be written, or the store that machines share cannot be used.
    """
    _home_is_writable(ctx.home.root)
    if ctx.store.shared is not None:
        ctx.store.shared.check()
    if Execution.from_environment().executor != "ray":  # whose steps run on other machines' devices
        ctx.compute.devices()
    from sae_pipeline.analysis.health.rubrics import load_rubrics

    load_rubrics(ctx.study.analysis.rubrics)
    _corpora_fit(ctx)
    sizes = _subject_sizes(ctx)
    if sizes:
        _fits(ctx, sizes)
    for cell in cells(ctx.study):
        _can_be_trained(ctx, cell)
        _begins_with_what_is_there(ctx, cell, sizes["d_model"] if sizes else None)
    _can_be_matched(ctx.study)
    for name in ctx.study.sources:
        _can_be_read(ctx, name)


def _can_be_read(ctx: StudyContext, source: str) -> None:
    try:
        if sources.is_external(ctx, source):
            sources.data_version(ctx, source)
        else:
            derived.check(ctx, source)
    except SourceError as error:
        key = f"sources.{source}"
        raise SourceError(error if str(error).startswith(key) else f"{key}: {error}") from None


def _can_be_matched(study: Study) -> None:
    """Refuse named pairs that are no comparison, and a map of directions that nothing here can draw."""
    if study.matching is None:
        return
    named_pairs([DeclaredSae(cell, label) for cell in cells(study) for label in cell.arms], study.matching.pairs)
    if study.matching.umap and find_spec("umap") is None:
        raise StudyError(
            "matching.umap: expected the package umap-learn, which lays directions out in the plane, found none here; "
            "run `pip install 'sae-pipeline[umap]'` or set matching.umap to false"
        )


def _home_is_writable(root: Path) -> None:
    probe = root / f".writable-{os.getpid()}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise StorageError(
            f"SAE_HOME: expected a folder that can be written, found {root} ({error.strerror}); choose another with SAE_HOME=/path"
        ) from None


def _corpora_fit(ctx: StudyContext) -> None:
    """Refuse a corpus that is larger than the whole disk; what is nearly full is told when it is written."""
    held_out = ((declared.tokens, f"held_out.{name}.tokens") for name, declared in ctx.study.held_out.items())
    largest, key = max([(ctx.study.activations.tokens, "activations.tokens"), *held_out])
    size = shutil.disk_usage(ctx.home.existing_root).total
    if BYTES_PER_TOKEN * largest > size:
        raise BadInput(
            f"{ctx.home.root}: expected a disk that holds a corpus of {largest:,} tokens ({BYTES_PER_TOKEN * largest / 1e9:,.0f} GB), "
            f"found one of {size / 1e9:,.0f} GB; lower {key} or point SAE_HOME to a larger disk"
        )


def _subject_sizes(ctx: StudyContext) -> dict[str, Any] | None:
    """n_layers, d_model and context limit of the bundled subject or of a local checkpoint; None for a hub id."""
    subject = ctx.study.subject
    if subject.model == "bundled":
        bundled = subject.bundled
        return {"n_layers": bundled.n_layers, "d_model": bundled.d_model, "context": ctx.study.activations.context_length}
    folder = Path(subject.model)
    if not folder.is_dir():
        if subject.model.startswith("/"):
            raise SubjectError(f"subject.model: expected a checkpoint folder, found nothing at {folder}; check the path")
        return None
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        raise SubjectError(
            f"subject.model: expected a Hugging Face checkpoint with a readable config.json, found none in {folder}; check the path"
        ) from None
    return {name: next((config[key] for key in keys if key in config), None) for name, keys in SIZES.items()}


def _fits_into_memory(ctx: StudyContext, arm: Arm, d_model: int, d_sae: int, name: str) -> None:
    """Refuse an SAE that is sure not to fit into the machine; a GPU's memory is told by the device itself."""
    if Execution.from_environment().executor == "ray" or ctx.compute.devices()[0] != "cpu":
        return
    needed, there = group_bytes([arm], d_model, d_sae, threads=1), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > ESTIMATE_FACTOR * there:
        raise StudyError(
            f"saes: expected SAEs that fit into this machine's {there / 2**30:.3g} GiB, found that {name} ({d_sae:,} latents of width {d_model}, "
            f"batch_size {arm.batch_size:,}) needs about {needed / 2**30:.3g}; lower saes.expansions or batch_size, or raise accumulate"
        )


def _can_be_trained(ctx: StudyContext, cell: Cell) -> None:
    """Refuse arms whose steps cannot be taken as the study says."""
    for label, arm in cell.arms.items():
        if arm.batch_size > arm.tokens:
            raise StudyError(
                f"saes.arms: expected a batch_size of at most the token budget in {cell.sae_id(label)}, found batch_size {arm.batch_size:,} and "
                f"{arm.tokens:,} tokens; lower batch_size or raise tokens"
            )
        check_division(arm, cell.sae_id(label))


def _begins_with_what_is_there(ctx: StudyContext, cell: Cell, d_model: int | None) -> None:
    """Refuse warm starts that are missing or do not fit; what has been trained from one does not need it any more."""
    if not any(arm.warm_start for arm in cell.arms.values()):
        return
    trained = saes.partial(ctx, cell.mix, cell.point, cell.expansion)
    done = {*trained.saes, *trained.diverged}
    there = {label: arm for label, arm in cell.arms.items() if label not in done or Path(arm.warm_start or ".").is_dir()}
    warm_starts.check(replace(cell, arms=there), d_model)
    warm_starts.remember(ctx.home, warm_starts.identified(ctx.home, cell))


def _fits(ctx: StudyContext, sizes: dict[str, Any]) -> None:
    study = ctx.study
    if sizes["n_layers"] is not None:
        for layer in study.activations.layers:
            if layer >= sizes["n_layers"]:
                raise StudyError(f"activations.layers: expected block numbers from 0 to {sizes['n_layers'] - 1} for this subject, found {layer}")
    if sizes["context"] is not None and study.activations.context_length > sizes["context"]:
        raise StudyError(
            f"activations.context_length: expected at most {sizes['context']}, the subject's limit, found {study.activations.context_length}; lower it"
        )
    if sizes["d_model"] is not None:
        for cell in cells(study):
            d_sae = d_sae_of(cell.expansion, sizes["d_model"])
            for label, arm in cell.arms.items():
                _fits_into_memory(ctx, arm, sizes["d_model"], d_sae, cell.sae_id(label))
                if arm.sparsity > d_sae:
                    raise StudyError(
                        f"saes.arms: expected at most {d_sae} active latents in {cell.sae_id(label)} (expansion {cell.expansion:g} of width {sizes['d_model']}), "
                        f"found {arm.sparsity:g}{giver(study, 'k', arm.sparsity)}; lower k or target_l0, raise the expansion, or restrict the arm with 'only'"
                    )
