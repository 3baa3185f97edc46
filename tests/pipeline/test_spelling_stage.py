"""First-letter absorption from the words of a subject to the rows of the warehouse."""

from __future__ import annotations

from string import ascii_lowercase
from typing import Any

import pytest
import torch
from small_study import SmallStudy

from sae_pipeline.metrics.spelling import words as spelling_metrics
from sae_pipeline.metrics.spelling.absorption import NotApplicable, WordActivations
from sae_pipeline.saes.inference import InferenceSAE
from sae_pipeline.stages import spelling, subject
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact, Home
from sae_pipeline.study import HookPoint, load_study

POINT = HookPoint(1, "resid_post")
PER_LETTER = 5
WORDS = tuple(f"{letter}{second}" for letter in ascii_lowercase for second in ascii_lowercase[:PER_LETTER])


@pytest.fixture
def ctx(small_study: SmallStudy, tmp_path: Any) -> StudyContext:
    """The small study with its subject recorded."""
    found = StudyContext.open(load_study(small_study.write()), Home(tmp_path / "home"))
    subject.prepare(found)
    return found


def planted() -> WordActivations:
    """A word is its letter's direction plus one of its own; two of every five are held out."""
    n = len(WORDS)
    x = torch.zeros(n, 26 + n)
    x[torch.arange(n), torch.arange(n) // PER_LETTER] = 1
    x[torch.arange(n), 26 + torch.arange(n)] = 1
    return WordActivations(WORDS, x, torch.arange(n) % PER_LETTER >= 3, spelling_accuracy=0.9)


def stored_sae(ctx: StudyContext) -> Artifact:
    """A latent per letter, and one that writes both letter and word in place of the first held-out word with a."""
    word, d_model = WORDS.index("ad"), 26 + len(WORDS)
    W_enc, W_dec = torch.zeros(d_model, 27), torch.zeros(27, d_model)
    W_enc[range(26), range(26)] = W_dec[range(26), range(26)] = 1
    W_enc[26 + word, 26], W_enc[26 + word, 0] = 1, -1
    W_dec[26, 26 + word] = W_dec[26, 0] = 1
    with ctx.store.draft("saes", "planted", {}) as draft:
        assert not isinstance(draft, Artifact)
        InferenceSAE(W_enc, torch.zeros(27), W_dec, torch.zeros(d_model), "relu").save(draft.path)
        return draft.publish({})


def read(ctx: StudyContext) -> Artifact:
    """Have the study's subject spell."""
    return spelling.read_words(ctx, POINT, subject.need(ctx).load("float32", "cpu"))


def test_absorption_is_measured_once_and_told_letter_by_letter(ctx: StudyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the two held-out words with a is absorbed: half of one letter of 26."""
    monkeypatch.setattr(spelling_metrics, "spelling_words", lambda *args, **kwargs: planted())
    assert read(ctx).summary == {"words": len(WORDS), "accuracy": 0.9, "not_applicable": None}
    stored = {"an-arm": stored_sae(ctx)}
    measured = spelling.absorption(ctx, POINT, stored)["an-arm"]
    figures = pytest.approx(1 / 2 / 26)
    assert measured.summary["metrics"] == {"first_letter_absorption": figures, "first_letter_absorption_full": figures}
    assert spelling.absorption(ctx, POINT, stored)["an-arm"].reused
    assert spelling.find_absorption(ctx, POINT, stored["an-arm"]) is not None
    rows = spelling.rows(ctx, POINT, stored)
    assert rows["letter"].tolist() == list(ascii_lowercase)
    assert rows.loc[0, ["arm", "main_latents", "words", "full_absorption"]].tolist() == ["an-arm", "[0]", 2, 0.5]
    assert rows["not_applicable"].isna().all()


def test_a_site_without_letters_gives_one_row_with_the_reason(ctx: StudyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model can spell, but these activations do not hold the letters."""
    words = planted()
    words.activations[:, :26] = 0
    monkeypatch.setattr(spelling_metrics, "spelling_words", lambda *args, **kwargs: words)
    read(ctx)
    stored = {"an-arm": stored_sae(ctx)}
    assert spelling.absorption(ctx, POINT, stored)["an-arm"].summary["metrics"] == {}
    rows = spelling.rows(ctx, POINT, stored)
    assert len(rows) == 1
    assert "first letter" in rows.loc[0, "not_applicable"]


def test_a_subject_that_cannot_spell_leaves_its_reason_and_measures_no_sae(ctx: StudyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spelling_metrics, "spelling_words", lambda *args, **kwargs: NotApplicable("it is an encoder"))
    read(ctx)
    stored = {"an-arm": stored_sae(ctx)}
    assert spelling.absorption(ctx, POINT, stored) == {}
    assert spelling.rows(ctx, POINT, stored)["not_applicable"].tolist() == ["it is an encoder"]


def test_no_words_are_asked_for_where_the_study_wants_none(small_study: SmallStudy, tmp_path: Any) -> None:
    path = small_study.write(lambda data: data["evaluation"].update(spelling_words=0))
    ctx = StudyContext.open(load_study(path), Home(tmp_path / "home"))
    subject.prepare(ctx)
    assert read(ctx).summary["not_applicable"] == "evaluation.spelling_words is 0"
