"""The evaluation stages: what a held-out set's raw activations are like, and how each SAE does on it.

``baselines`` holds what no SAE changes (sums of the activations, clean and ablated cross-entropy), once per set and
layer. ``evaluations`` holds one SAE on one set, so that a new set or a new arm costs only its own. ``metrics`` gathers
a cell into one table per kind of row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from sae_pipeline.stages import activations, corpora, saes, slices, spelling, subject
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact, Draft, digest
from sae_pipeline.study import Cell, HookPoint, expansion_key

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from sae_pipeline.activations.subject import SubjectModel
    from sae_pipeline.saes.inference import InferenceSAE

GATHERED = {"document_sums": "documents", "position_sums": "positions", "feature_stats": "latents"}
"""Tables of a cell, and the file of each evaluation that they are gathered from."""
TOP_CONTEXTS, DECODER_PAIRS = "top_contexts", "decoder_pairs"
"""Tables gathered from the evaluations on one set: the first is large, and the second says the same on every set."""


def _lane(held_out: str) -> str:
    return f"held_out/{held_out}"


# ------------------------------------------------------------------------------------------------ baselines


def _baseline_identity(ctx: StudyContext, point: HookPoint, cached: Artifact, corpus: Artifact) -> tuple[str, dict[str, Any]]:
    inputs = {
        "study": slices.baselines(ctx.study),
        "activations": cached.fingerprint,
        "corpus": corpus.content,
        "spelling": spelling.fingerprint(ctx, point),
    }
    return digest("baselines", slices.VERSIONS["baselines"], inputs), inputs


def find_baseline(ctx: StudyContext, held_out: str, point: HookPoint) -> Artifact | None:
    """The baseline of a set at a layer, if the stage has run."""
    cached, corpus = activations.find(ctx, _lane(held_out), point), corpora.find(ctx, _lane(held_out))
    if cached is None or corpus is None or spelling.find(ctx, point) is None:
        return None
    return ctx.store.find("baselines", _baseline_identity(ctx, point, cached, corpus)[0])


def need_baseline(ctx: StudyContext, held_out: str, point: HookPoint) -> Artifact:
    """The baseline of a set at a layer, which must exist."""
    cached, corpus = activations.need(ctx, _lane(held_out), point), corpora.need(ctx, _lane(held_out))
    return ctx.store.open("baselines", _baseline_identity(ctx, point, cached, corpus)[0])


def measure_baseline(ctx: StudyContext, held_out: str, point: HookPoint) -> Artifact:
    """Sums of the raw activations, cross-entropy with the site intact, zeroed and set to its mean, and what else SAEs are held against."""
    cached, corpus = activations.need(ctx, _lane(held_out), point), corpora.need(ctx, _lane(held_out))
    fingerprint, inputs = _baseline_identity(ctx, point, cached, corpus)
    if spelling.find(ctx, point) is None:
        with ctx.compute.lease() as device:
            spelling.read_words(ctx, point, subject.need(ctx).load(ctx.study.subject.dtype, device))
    with ctx.store.draft("baselines", fingerprint, inputs) as draft:
        if isinstance(draft, Artifact):
            return draft
        from sae_pipeline.corpora.corpus import Corpus
        from sae_pipeline.metrics import baselines

        with ctx.compute.lease() as device:
            model = subject.need(ctx).load(ctx.study.subject.dtype, device)
            summary = baselines.measure_baseline(
                draft.path,
                activations=activations.shards(cached),
                corpus=Corpus.load(corpus),
                model=model,
                hook=model.hook_name(point.site, point.layer),
                random_text=_random_text(ctx, model),
                **ctx.study.evaluation.model_dump(include={"ce_tokens", "batch_size", "outlier_norm_ratio"}),
            )
        return draft.publish(summary)


def _random_text(ctx: StudyContext, model: SubjectModel) -> Tensor | None:
    """Contexts of random token ids, the same for every set and layer; None when the study asks for none."""
    from sae_pipeline.metrics.latents.fake_features import random_token_ids

    length, tokens = ctx.study.activations.context_length, ctx.study.evaluation.random_tokens
    if tokens == 0:
        return None
    tokenizer = subject.need(ctx).tokenizer()
    vocabulary = min(tokenizer.vocab_size, model.vocab_size)
    return random_token_ids(vocabulary, tokenizer.special_ids, ceil(tokens / (length - 1)), length, tokenizer.bos_id, seed=0)


# ------------------------------------------------------------------------------------------------ one SAE on one set


@dataclass(frozen=True)
class EvaluatedCell:
    """The gathered tables of a cell, and how many evaluations they needed."""

    cell: Cell
    artifact: Artifact
    computed: int
    reused: int


def _evaluation_identity(ctx: StudyContext, sae: Artifact, baseline: Artifact) -> tuple[str, dict[str, Any]]:
    inputs = {"sae": sae.fingerprint, "baseline": baseline.fingerprint, "top_contexts": ctx.study.evaluation.top_contexts}
    return digest("evaluations", slices.VERSIONS["evaluations"], inputs), inputs


def find_evaluation(ctx: StudyContext, sae: Artifact, baseline: Artifact) -> Artifact | None:
    """The evaluation of a stored SAE on the set and layer of a baseline, if there is one."""
    return ctx.store.find("evaluations", _evaluation_identity(ctx, sae, baseline)[0])


def need_evaluation(ctx: StudyContext, sae: Artifact, baseline: Artifact) -> Artifact:
    """The evaluation of a stored SAE on the set and layer of a baseline, which must exist."""
    return ctx.store.open("evaluations", _evaluation_identity(ctx, sae, baseline)[0])


def evaluate_on(ctx: StudyContext, held_out: str, point: HookPoint, stored: dict[str, Artifact]) -> dict[str, Artifact]:
    """Evaluate stored SAEs of one hook point, by label, on one set: all that are missing in one pass."""
    baseline = need_baseline(ctx, held_out, point)
    done: dict[str, Artifact] = {}
    drafts: dict[str, Draft] = {}
    with ExitStack() as stack:
        identities = {label: _evaluation_identity(ctx, sae, baseline) for label, sae in stored.items()}
        for label, (fingerprint, inputs) in sorted(identities.items(), key=lambda item: item[1][0]):
            draft = stack.enter_context(ctx.store.draft("evaluations", fingerprint, inputs))
            if isinstance(draft, Artifact):
                done[label] = draft
            else:
                drafts[label] = draft
        if drafts:
            from sae_pipeline.corpora.corpus import Corpus
            from sae_pipeline.metrics.baselines import Baseline
            from sae_pipeline.metrics.evaluate import evaluate_saes

            lane = _lane(held_out)
            with ctx.compute.lease() as device:
                model: SubjectModel = subject.need(ctx).load(ctx.study.subject.dtype, device)
                metrics = evaluate_saes(
                    {label: draft.path for label, draft in drafts.items()},
                    {label: load_sae(stored[label], device) for label in drafts},
                    activations=activations.shards(activations.need(ctx, lane, point)),
                    corpus=Corpus.load(corpora.need(ctx, lane)),
                    baseline=Baseline.load(baseline),
                    model=model,
                    hook=model.hook_name(point.site, point.layer),
                    of_saes=_of_saes(ctx, point, {label: stored[label] for label in drafts}),
                    **ctx.study.evaluation.model_dump(include={"ce_tokens", "batch_size", "top_contexts"}),
                )
            for label, draft in drafts.items():
                done[label] = draft.publish(metrics[label])
                ctx.remembered[_fake(point, stored[label])] = metrics[label]["fake_feature_ratio"]
    return done


def _of_saes(ctx: StudyContext, point: HookPoint, stored: dict[str, Artifact]) -> dict[str, dict[str, float | None]]:
    """By label, what no evaluation set changes: first-letter absorption, and what an evaluation on another set found on random tokens."""
    absorbed = spelling.absorption(ctx, point, stored)
    found: dict[str, dict[str, float | None]] = {label: dict(absorbed[label].summary["metrics"]) if label in absorbed else {} for label in stored}
    for label, sae in stored.items():
        if _fake(point, sae) in ctx.remembered:
            found[label]["fake_feature_ratio"] = ctx.remembered[_fake(point, sae)]
    return found


def _fake(point: HookPoint, sae: Artifact) -> tuple[str, ...]:
    return "fake_feature_ratio", point.key, sae.fingerprint


def load_sae(sae: Artifact, device: str = "cpu") -> InferenceSAE:
    """The stored SAE, after its bytes were checked."""
    from sae_pipeline.saes.inference import InferenceSAE

    for name in sae.manifest["files"]:
        sae.file(name)
    return InferenceSAE.load(sae.path).to(device)


# ------------------------------------------------------------------------------------------------ a cell's tables


def _metrics_identity(ctx: StudyContext, cell: saes.TrainedCell, baselines: dict[str, Artifact]) -> tuple[str, dict[str, Any]]:
    inputs = {
        "saes": {label: sae.fingerprint for label, sae in cell.saes.items()},
        "baselines": {name: baseline.fingerprint for name, baseline in baselines.items()},
        "traced": slices.traced(ctx.study),
    }
    return digest("metrics", slices.VERSIONS["metrics"], slices.VERSIONS["evaluations"], inputs), inputs


def found(ctx: StudyContext, cell: saes.TrainedCell) -> Iterator[tuple[str, Artifact]]:
    """(name, artifact) of every evaluation of a cell's SAEs that is in the store, and of the cell's tables."""
    for held_out in ctx.study.held_out:
        if (baseline := find_baseline(ctx, held_out, cell.cell.point)) is not None:
            for label, sae in cell.saes.items():
                if (evaluated := find_evaluation(ctx, sae, baseline)) is not None:
                    yield f"{cell.cell.sae_id(label)} on {held_out}", evaluated
    for label, sae in cell.saes.items():
        if (measured := spelling.find_absorption(ctx, cell.cell.point, sae)) is not None:
            yield f"first letters of {cell.cell.sae_id(label)}", measured
    if (gathered := find(ctx, cell.cell.mix, cell.cell.point, cell.cell.expansion)) is not None:
        yield f"{cell.cell.mix}/metrics {cell.cell.point.key}|{expansion_key(cell.cell.expansion)}", gathered


def find(ctx: StudyContext, mix: str, point: HookPoint, expansion: float) -> Artifact | None:
    """The metric tables of a cell, if they have been gathered."""
    cell = saes.find(ctx, mix, point, expansion)
    baselines = {name: find_baseline(ctx, name, point) for name in ctx.study.held_out}
    if cell is None or any(b is None for b in baselines.values()):
        return None
    return ctx.store.find("metrics", _metrics_identity(ctx, cell, {n: b for n, b in baselines.items() if b is not None})[0])


def is_complete(ctx: StudyContext, mix: str, point: HookPoint, expansion: float) -> bool:
    """Whether the metric tables of a cell are in the store, and every evaluation that they were gathered from."""
    if find(ctx, mix, point, expansion) is None:
        return False
    cell = saes.need(ctx, mix, point, expansion)
    return all(_is_evaluated(ctx, cell, need_baseline(ctx, name, point)) for name in ctx.study.held_out)


def _is_evaluated(ctx: StudyContext, cell: saes.TrainedCell, baseline: Artifact) -> bool:
    return all(find_evaluation(ctx, sae, baseline) is not None for sae in cell.saes.values())


def need(ctx: StudyContext, mix: str, point: HookPoint, expansion: float) -> Artifact:
    """The metric tables of a cell, which must exist."""
    cell = saes.need(ctx, mix, point, expansion)
    baselines = {name: need_baseline(ctx, name, point) for name in ctx.study.held_out}
    return ctx.store.open("metrics", _metrics_identity(ctx, cell, baselines)[0])


def evaluate(ctx: StudyContext, mix: str, point: HookPoint, expansion: float) -> EvaluatedCell:
    """Evaluate every SAE of a cell on every held-out set and write the cell's tables."""
    cell = saes.need(ctx, mix, point, expansion)
    baselines = {name: need_baseline(ctx, name, point) for name in ctx.study.held_out}
    fingerprint, inputs = _metrics_identity(ctx, cell, baselines)
    with ctx.store.draft("metrics", fingerprint, inputs) as draft:
        if isinstance(draft, Artifact):
            # Who reads an evaluation itself needs it whole, and it may have been damaged since its table was gathered.
            lost = [name for name in baselines if not _is_evaluated(ctx, cell, baselines[name])]
            mended = [e for name in lost for e in evaluate_on(ctx, name, point, cell.saes).values() if not e.reused]
            return EvaluatedCell(cell.cell, draft, computed=len(mended), reused=1)
        import pandas as pd

        from sae_pipeline.metrics.registry import METRICS

        rows: list[dict[str, Any]] = []
        evaluations: list[Artifact] = []
        frames: dict[str, list[pd.DataFrame]] = {name: [] for name in (*GATHERED, TOP_CONTEXTS, DECODER_PAIRS)}
        for held_out in baselines:
            evaluated = evaluate_on(ctx, held_out, point, cell.saes)
            evaluations += list(evaluated.values())
            for label in cell.saes:
                key = {"arm": label, "evaluation_set": held_out}
                rows.append(key | evaluated[label].json("metrics.json"))
                for name, file in GATHERED.items():
                    frames[name].append(pd.read_parquet(evaluated[label].file(f"{file}.parquet")).assign(**key))
                if held_out == slices.traced(ctx.study)["set"]:
                    frames[TOP_CONTEXTS].append(pd.read_parquet(evaluated[label].file(f"{TOP_CONTEXTS}.parquet")).assign(**key))
                    frames[DECODER_PAIRS].append(pd.read_parquet(evaluated[label].file(f"{DECODER_PAIRS}.parquet")).assign(arm=label))
        # Every metric is a float column even where it is null everywhere, so that the schema never depends on the data.
        table = pd.DataFrame(rows, columns=["arm", "evaluation_set", *METRICS]).astype(dict.fromkeys(METRICS, float))
        table.to_parquet(draft.path / "metrics.parquet", index=False)
        spelling.rows(ctx, point, cell.saes).to_parquet(draft.path / "first_letters.parquet", index=False)
        for name, gathered in frames.items():
            _stacked(gathered).to_parquet(draft.path / f"{name}.parquet", index=False)
        artifact = draft.publish({"saes": len(cell.saes), "rows": len(rows)})
    computed = sum(not e.reused for e in evaluations)
    return EvaluatedCell(cell.cell, artifact, computed=computed + 1, reused=len(evaluations) - computed)


def _stacked(frames: list[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
