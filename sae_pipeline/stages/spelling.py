"""First-letter absorption: the words of a subject and layer that are asked to be spelt, once, and what each SAE makes of them.

Both are made when an evaluation first needs them; a subject that cannot spell leaves a reason, and its SAEs nothing.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sae_pipeline.stages import slices, subject
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact, digest
from sae_pipeline.study import HookPoint

if TYPE_CHECKING:
    import pandas as pd

    from sae_pipeline.activations.subject import SubjectModel

STAGE, ABSORPTION = "spelling", "absorption"
WORDS, LETTERS = "words.safetensors", "letters.parquet"
OFF = "evaluation.spelling_words is 0"
COLUMNS: dict[str, Any] = (
    {"letter": "string", "probe_f1": float, "main_latents": "string", "main_f1": float, "words": "Int64"}
    | dict.fromkeys(("absorption_fraction", "full_absorption"), float)
    | {"not_applicable": "string"}
)
"""Columns of ``first_letters`` after the SAE's, and their types."""


def _identity(ctx: StudyContext, point: HookPoint) -> tuple[str, dict[str, Any]]:
    inputs = {
        "study": slices.spelling(ctx.study),
        "layer": point.layer,
        "site": point.site,
        "subject": subject.need(ctx).artifact.content,
        "backend": f"transformer-lens {version('transformer-lens')}, raw weights",
    }
    return digest(STAGE, slices.VERSIONS[STAGE], inputs), inputs


def fingerprint(ctx: StudyContext, point: HookPoint) -> str:
    """Identity of the words at a hook point."""
    return _identity(ctx, point)[0]


def find(ctx: StudyContext, point: HookPoint) -> Artifact | None:
    """The words at a hook point, if they have been read."""
    return ctx.store.find(STAGE, fingerprint(ctx, point)) if subject.find(ctx) is not None else None


def read_words(ctx: StudyContext, point: HookPoint, model: SubjectModel) -> Artifact:
    """Have the model spell words, and keep their activations; or why it has none."""
    identity, inputs = _identity(ctx, point)
    with ctx.store.draft(STAGE, identity, inputs) as draft:
        if isinstance(draft, Artifact):
            return draft
        from sae_pipeline.metrics.spelling.absorption import NotApplicable
        from sae_pipeline.metrics.spelling.words import spelling_words, write_words

        limit = ctx.study.evaluation.spelling_words
        found = subject.need(ctx)
        tokenizer = found.tokenizer()
        hook = model.hook_name(point.site, point.layer)
        words = spelling_words(model, tokenizer, hook, batch_size=ctx.study.evaluation.batch_size, words=limit) if limit else NotApplicable(OFF)
        write_words(words, draft.path / WORDS)
        if isinstance(words, NotApplicable):
            return draft.publish({"words": 0, "accuracy": None, "not_applicable": words.reason})
        return draft.publish({"words": len(words.words), "accuracy": words.spelling_accuracy, "not_applicable": None})


def _absorption_identity(sae: Artifact, words: str) -> tuple[str, dict[str, Any]]:
    inputs = {"sae": sae.fingerprint, "words": words}
    return digest(ABSORPTION, slices.VERSIONS[ABSORPTION], inputs), inputs


def find_absorption(ctx: StudyContext, point: HookPoint, sae: Artifact) -> Artifact | None:
    """First-letter absorption of a stored SAE, if it has been measured."""
    return ctx.store.find(ABSORPTION, _absorption_identity(sae, fingerprint(ctx, point))[0])


def absorption(ctx: StudyContext, point: HookPoint, stored: dict[str, Artifact]) -> dict[str, Artifact]:
    """First-letter absorption of stored SAEs of one hook point, by label; of none where the model cannot spell."""
    words_of = ctx.store.open(STAGE, fingerprint(ctx, point))
    if words_of.summary["not_applicable"] is not None:
        return {}
    from sae_pipeline.metrics.spelling.absorption import NotApplicable, WordActivations, first_letter_absorption
    from sae_pipeline.metrics.spelling.words import read_words as read
    from sae_pipeline.stages.evaluation import load_sae

    words: WordActivations | NotApplicable | None = None
    measured: dict[str, Artifact] = {}
    for label, sae in stored.items():
        identity, inputs = _absorption_identity(sae, words_of.fingerprint)
        with ctx.store.draft(ABSORPTION, identity, inputs) as draft:
            if isinstance(draft, Artifact):
                measured[label] = draft
                continue
            words = words or read(words_of.file(WORDS))
            assert isinstance(words, WordActivations)
            found = first_letter_absorption(load_sae(sae), words)
            if isinstance(found, NotApplicable):
                measured[label] = draft.publish({"not_applicable": found.reason, "metrics": {}})
                continue
            found.letters.assign(main_latents=found.letters["main_latents"].map(json.dumps)).to_parquet(draft.path / LETTERS, index=False)
            figures = {"first_letter_absorption": found.absorption_fraction, "first_letter_absorption_full": found.full_absorption}
            measured[label] = draft.publish({"not_applicable": None, "metrics": figures})
    return measured


def rows(ctx: StudyContext, point: HookPoint, stored: dict[str, Artifact]) -> pd.DataFrame:
    """One row per SAE (``arm``) and letter, or one per SAE that says why there is none."""
    import pandas as pd

    measured, words_of = absorption(ctx, point, stored), ctx.store.open(STAGE, fingerprint(ctx, point))
    frames = []
    for label in stored:
        reason = measured.get(label, words_of).summary["not_applicable"]
        letters = pd.DataFrame({"not_applicable": [reason]}) if reason is not None else pd.read_parquet(measured[label].file(LETTERS))
        frames.append(letters.reindex(columns=list(COLUMNS)).assign(arm=label))
    gathered = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*COLUMNS, "arm"])
    return gathered.astype(COLUMNS)
