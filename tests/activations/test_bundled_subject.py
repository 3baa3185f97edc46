"""The bundled subject learns its text, twice the same, and is an ordinary checkpoint."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_pipeline.activations.bundled import train_bundled_subject
from sae_pipeline.activations.chunked_loss import ChunkedCrossEntropy
from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.corpora.tokenization import TextTokenizer
from sae_pipeline.errors import SourceError, TrainingError
from sae_pipeline.study.text_sections import BundledSubject

CONFIG = BundledSubject(d_model=32, n_layers=2, n_heads=2, vocab_size=400, tokens=30_000, batch_size=4)
WORDS = [a + b for a in ("ka", "lo", "mi", "nu", "pe", "ri") for b in ("ba", "do", "fe", "gu", "ha", "ji")]


def texts(seed: int) -> Iterator[str]:
    """Sentences in which a word nearly fixes the next: a unigram model is far from the truth, a transformer is not."""
    generator = random.Random(seed)
    for _ in range(1500):
        word, words = generator.randrange(36), []
        for _ in range(60):
            words.append(WORDS[word])
            word = (word * 7 + 5 + generator.randrange(2)) % 36
        yield " ".join(words)


def train(folder: Path, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"config": CONFIG, "context_length": 32, "train_texts": texts(0), "held_out_texts": list(texts(1))[:60]}
    return train_bundled_subject(folder, **(arguments | changes))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("bundled")
    return folder, train(folder)


def test_it_beats_the_unigram_model_by_a_wide_margin(trained: tuple[Path, dict[str, Any]]) -> None:
    summary = trained[1]
    assert summary["held_out_loss"] < summary["unigram_loss"] - 1
    assert 0 < 30_000 - summary["train_tokens"] < 32
    assert summary["held_out_tokens"] > 1000


def test_the_unigram_loss_is_that_of_the_counts_plus_one(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = trained
    tokenizer = TextTokenizer.load(folder / "checkpoint")

    def stream(documents: list[str]) -> list[int]:
        return [token for ids in tokenizer.encode(documents) for token in (*ids, 0)]

    train_ids, held_out_ids = stream(list(texts(0)))[: 30_000 // 32 * 31], stream(list(texts(1))[:60])
    held_out_ids = held_out_ids[: len(held_out_ids) // 31 * 31]
    counts = [1] * tokenizer.vocab_size
    for token in train_ids:
        counts[token] += 1
    expected = sum(-math.log(counts[token] / sum(counts)) for token in held_out_ids) / len(held_out_ids)
    assert summary["unigram_loss"] == pytest.approx(expected, rel=1e-6)


def test_the_checkpoint_is_an_ordinary_one_with_bos_and_eos_id_zero(trained: tuple[Path, dict[str, Any]]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, summary = trained
    checkpoint = folder / "checkpoint"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint).eval(), AutoTokenizer.from_pretrained(checkpoint)
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == 0
    assert tokenizer.decode(tokenizer("kaba lodo, ünïcode")["input_ids"]) == "kaba lodo, ünïcode"
    reader = TextTokenizer.load(checkpoint)
    assert (reader.bos_id, reader.separator_id) == (0, 0)
    assert json.loads((checkpoint / "config.json").read_text())["n_positions"] == 32
    assert model.num_parameters() == summary["parameters"]
    subject = SubjectModel.load(str(checkpoint))
    subject.check([0, 1], "resid_post", 32)
    tokens = torch.tensor([[0, *reader.encode([next(texts(2))])[0][:31]]])
    with torch.no_grad():
        torch.testing.assert_close(subject.logits(tokens), model(tokens).logits, atol=1e-4, rtol=0)


def test_the_same_text_and_seed_give_the_same_bits(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    state = torch.get_rng_state()
    train(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    for file in sorted((trained[0] / "checkpoint").glob("[!.]*")):
        assert file.read_bytes() == (tmp_path / "checkpoint" / file.name).read_bytes(), file.name


def test_too_little_text_is_refused_with_the_numbers(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"expected 30,000 tokens of training text, found [\d,]+ in the sources"):
        train(tmp_path, train_texts=list(texts(0))[:10])
    with pytest.raises(SourceError, match="held-out tokens"):
        train(tmp_path, held_out_texts=["short"])


def test_a_diverging_run_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"lower subject\.bundled\.learning_rate"):
        train(tmp_path, config=CONFIG.model_copy(update={"learning_rate": 1e30}))


def test_the_end_token_spelled_out_in_a_document_is_plain_text(tmp_path: Path) -> None:
    spelled = ("<|endoftext|> " + text for text in texts(0))
    train(tmp_path, train_texts=spelled, config=CONFIG.model_copy(update={"tokens": 2_000}))
    assert 0 not in TextTokenizer.load(tmp_path / "checkpoint").encode(["<|endoftext|>"])[0]


def test_chunked_cross_entropy_equals_pytorchs_with_both_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, W_U = (torch.randn(n, 24, generator=generator).requires_grad_() for n in (1100, 70))
    targets = torch.randint(0, 70, (1100,), generator=generator)
    loss = ChunkedCrossEntropy.apply(hidden, W_U, targets, torch.float32)
    reference = torch.nn.functional.cross_entropy(hidden @ W_U.T, targets)
    torch.testing.assert_close(loss, reference, atol=1e-5, rtol=0)
    ours, theirs = torch.autograd.grad(3 * loss, (hidden, W_U)), torch.autograd.grad(3 * reference, (hidden, W_U))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
