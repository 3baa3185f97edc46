"""Self-generated text: the samples follow the model's distribution exactly, and their recipe alone decides them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.corpora import generation
from sae_pipeline.corpora.divergence import divergence
from sae_pipeline.corpora.generation import generate
from sae_pipeline.corpora.sampling import Sampler, draw, sampling_distribution
from sae_pipeline.corpora.sources.stored import StoredDocuments
from sae_pipeline.corpora.tokenization import TextTokenizer
from sae_pipeline.errors import SubjectError

BOS, LENGTH = 0, 15
ENDS = {1, *range(300, 340)}
"""So many that documents end at every length."""


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """The tiny Llama with weights so large that some tokens are far likelier than others, and several tokens that end a text, as chat models have."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("writer")
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(15)
    model.generation_config.eos_token_id = sorted(ENDS)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain(writer: Path) -> Any:
    """The same checkpoint in transformers alone."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(writer).eval()


def sampler(folder: Path, **changes: Any) -> Sampler:
    settings: dict[str, Any] = {"bos_id": BOS, "end_ids": ENDS, "vocab_size": 400, "length": LENGTH, "temperature": 1.0, "top_p": 1.0}
    return Sampler(SubjectModel.load(str(folder)), **(settings | changes))


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    recipe: dict[str, Any] = {
        "location": str(folder), "revision": None, "tokenizer": TextTokenizer.load(folder), "device": "cpu", "dtype": "float32", "tokens": 1_500,
        "context_length": LENGTH + 1, "temperature": 1.0, "top_p": 1.0, "batch_size": 16, "seed": 3,
    }  # fmt: skip
    return recipe | changes


def test_first_tokens_follow_the_exact_probabilities_after_bos(writer: Path, plain: Any) -> None:
    samples = sampler(writer, length=1).batch(4_000, seed=1, number=0)
    with torch.no_grad():
        exact = plain(torch.tensor([[BOS]])).logits[0, -1].double().softmax(0).numpy()
    counts = np.bincount([sample.drawn[0] for sample in samples], minlength=len(exact))
    often = exact * len(samples) >= 5  # the rest as one class, as the test's approximation asks
    observed, expected = (np.append(v[often], v[~often].sum()) for v in (counts, exact * len(samples)))
    assert often.sum() > 10
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 0.01


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9)])
def test_likelihoods_are_those_of_the_whole_text_without_a_cache(writer: Path, plain: Any, temperature: float, top_p: float) -> None:
    """Documents end at different steps and leave the batch, so this holds only if each keeps its own keys and values."""
    samples = sampler(writer, temperature=temperature, top_p=top_p).batch(24, seed=5, number=2)
    assert len({len(sample.ids) for sample in samples}) > 4
    for sample in samples:
        drawn = torch.tensor(sample.drawn)
        with torch.no_grad():
            logits = plain(torch.tensor([[BOS, *sample.drawn]])).logits[0, :-1].double()
        exact = sampling_distribution(logits, temperature, top_p).gather(1, drawn[:, None]).log().sum()
        assert sample.nll == pytest.approx(-float(exact), rel=1e-4, abs=1e-4)
        assert len(sample.ids) == LENGTH or sample.ended
        assert ENDS.isdisjoint(sample.ids)


def test_low_temperature_is_greedy(writer: Path, plain: Any) -> None:
    greedy = [BOS]
    with torch.no_grad():
        while len(greedy) <= LENGTH and greedy[-1] not in ENDS:
            greedy.append(int(plain(torch.tensor([greedy])).logits[0, -1].argmax()))
    expected = [token for token in greedy[1:] if token not in ENDS]
    assert all(sample.ids == expected for sample in sampler(writer, temperature=1e-6).batch(5, seed=0, number=0))


def test_nucleus_by_hand() -> None:
    """.5 + .3 is the first sum to reach .7; what is left is scaled to 1. Order of the vocabulary plays no part."""
    logits = torch.tensor([[0.15, 0.5, 0.05, 0.3]], dtype=torch.float64).log()
    kept = sampling_distribution(logits, 1.0, 0.7)
    torch.testing.assert_close(kept, torch.tensor([[0.0, 0.625, 0.0, 0.375]], dtype=torch.float64))
    torch.testing.assert_close(sampling_distribution(logits, 1.0, 1e-9), torch.tensor([[0.0, 1.0, 0.0, 0.0]], dtype=torch.float64))


def test_temperature_by_hand() -> None:
    """At temperature 1/2 probabilities are squared and scaled."""
    found = sampling_distribution(torch.tensor([[0.8, 0.2]], dtype=torch.float64).log(), 0.5, 1.0)
    torch.testing.assert_close(found, torch.tensor([[0.64 / 0.68, 0.04 / 0.68]], dtype=torch.float64))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20).filter(any), st.floats(0, 1, exclude_max=True))
def test_draws_are_the_inverse_of_the_cumulative_distribution(weights: list[int], uniform: float) -> None:
    probability = torch.tensor([weights], dtype=torch.float64) / sum(weights)
    token, likelihood = draw(probability, torch.tensor([uniform], dtype=torch.float64))
    chosen = int(token)
    assert float(likelihood) == float(probability[0, chosen]) > 0
    assert sum(weights[:chosen]) / sum(weights) <= uniform + 1e-12
    assert uniform <= sum(weights[: chosen + 1]) / sum(weights) + 1e-12


def test_ids_beyond_the_tokenizer_are_never_drawn(writer: Path) -> None:
    samples = sampler(writer, vocab_size=60).batch(50, seed=0, number=0)
    assert max(max(sample.ids, default=0) for sample in samples) < 60


def test_a_batch_is_a_pure_function_of_seed_and_number(writer: Path) -> None:
    first = sampler(writer)
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    batches = [first.batch(6, seed=1, number=number) for number in range(3)]
    assert torch.equal(state, torch.random.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])
    assert sampler(writer).batch(6, seed=1, number=2) == batches[2]
    assert batches[0] != batches[1]
    assert first.batch(6, seed=2, number=0) != batches[0]


def test_documents_and_summary_agree_with_the_ids(writer: Path, tmp_path: Path) -> None:
    recipe = settings(writer)
    summary = generate(tmp_path, **recipe)
    table = pd.read_parquet(tmp_path / "documents.parquet")
    lengths = table["ids"].map(len)
    assert [path.name for path in tmp_path.iterdir()] == ["documents.parquet"]
    assert summary["tokens"] == lengths.sum() >= 1_500 > lengths[:-1].sum()
    assert summary["documents"] == len(table) == summary["samples"] - summary["empty_samples"]
    assert lengths.between(1, LENGTH).all()
    assert summary["length"]["mean"] == pytest.approx(lengths.sum() / summary["samples"])
    assert summary["length"]["max"] == lengths.max()
    assert summary["duplicates"] == len(table) - table["text"].map(str.rstrip).nunique()
    assert 0 < summary["ended_share"] < 1
    assert list(table["text"]) == recipe["tokenizer"].decode([list(ids) for ids in table["ids"]])
    encoded = recipe["tokenizer"].encode(list(table["text"]))
    assert summary["round_trip_share"] == np.mean([list(ids) == again for ids, again in zip(table["ids"], encoded, strict=True)]) < 1
    assert summary["first_token"]["n"] == summary["samples"]
    # an exact sampler is as far away as chance puts it
    assert summary["first_token"]["kl"] < 1.5 * summary["first_token"]["kl_by_chance_95"]


def test_another_temperature_shows_in_the_first_tokens(writer: Path, tmp_path: Path) -> None:
    first = generate(tmp_path, **settings(writer, temperature=0.3, context_length=4))["first_token"]
    assert first["kl"] > 2 * first["kl_by_chance_95"]


def test_stored_samples_come_back_with_their_ids(writer: Path, tmp_path: Path) -> None:
    summary = generate(tmp_path, **settings(writer))
    source = StoredDocuments(tmp_path / "documents.parquet", "v1")
    documents = list(source.documents(0))
    table = pd.read_parquet(tmp_path / "documents.parquet").set_index("key")
    assert len(documents) == summary["documents"] - source.dropped.total()
    assert all(document.ids == tuple(table.loc[document.key, "ids"]) for document in documents)


class Killed(Exception):
    """Stands for a signal."""


def kill_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """Let a process sample this many batches and no more; each becomes a part of its own."""
    monkeypatch.setattr(generation, "PART_SECONDS", 0.0)
    batch, left = Sampler.batch, [calls]

    def limited(self: Sampler, *arguments: int, **named: int) -> list[Any]:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return batch(self, *arguments, **named)

    monkeypatch.setattr(Sampler, "batch", limited)


def without_rate(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary.items() if name != "tokens_per_second"}


@pytest.mark.parametrize("fault", ["none", "damaged part", "cut journal", "killed while deleting"])
def test_resumed_after_a_kill_equals_uninterrupted(writer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    whole.mkdir(), resumed.mkdir()
    expected = generate(whole, **settings(writer))
    with monkeypatch.context() as patch:
        kill_after(patch, 4)
        with pytest.raises(Killed):
            generate(resumed, **settings(writer))
    assert len(list(resumed.glob(".part-*.parquet"))) == 4
    if fault == "damaged part":
        (resumed / ".part-00001.parquet").write_bytes(b"PAR1")
    elif fault == "cut journal":
        (resumed / ".progress.json").write_text('{"recipe": "')
    elif fault == "killed while deleting":
        (resumed / ".part-00003.parquet").unlink()
        (resumed / "documents.parquet").write_bytes(b"")
    found = generate(resumed, **settings(writer))
    assert without_rate(found) == without_rate(expected)
    assert (resumed / "documents.parquet").read_bytes() == (whole / "documents.parquet").read_bytes()
    assert [path.name for path in resumed.iterdir()] == ["documents.parquet"]


def test_finished_parts_are_not_sampled_again(writer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        kill_after(patch, 4)
        with pytest.raises(Killed):
            generate(tmp_path, **settings(writer))
    with monkeypatch.context() as patch:
        kill_after(patch, 0)
        with pytest.raises(Killed):
            generate(tmp_path, **settings(writer))
    assert len(list(tmp_path.glob(".part-*.parquet"))) == 4


def test_parts_of_another_recipe_are_not_used(writer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        kill_after(patch, 2)
        with pytest.raises(Killed):
            generate(tmp_path, **settings(writer, seed=4))
    (tmp_path / "other").mkdir()
    expected = generate(tmp_path / "other", **settings(writer))
    (tmp_path / "other" / "documents.parquet").rename(tmp_path.parent / "expected.parquet")
    (tmp_path / "other").rmdir()
    assert without_rate(generate(tmp_path, **settings(writer))) == without_rate(expected)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "documents.parquet"), pd.read_parquet(tmp_path.parent / "expected.parquet"))


def test_a_larger_budget_extends_a_smaller_one(writer: Path, tmp_path: Path) -> None:
    tables = []
    for tokens in (1_000, 1_900):
        folder = tmp_path / str(tokens)
        folder.mkdir()
        generate(folder, **settings(writer, tokens=tokens))
        tables.append(pd.read_parquet(folder / "documents.parquet"))
    pd.testing.assert_frame_equal(tables[0], tables[1][: len(tables[0])])
    assert len(tables[1]) > len(tables[0])


def test_batch_size_changes_the_documents_and_is_deterministic(writer: Path, tmp_path: Path) -> None:
    tables = {}
    for run, batch_size in (("a", 8), ("b", 8), ("c", 5)):
        (tmp_path / run).mkdir()
        generate(tmp_path / run, **settings(writer, batch_size=batch_size))
        tables[run] = pd.read_parquet(tmp_path / run / "documents.parquet")
    pd.testing.assert_frame_equal(tables["a"], tables["b"])
    assert list(tables["a"]["text"]) != list(tables["c"]["text"])


def test_a_model_that_writes_nothing_is_refused(writer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "_end_ids", lambda subject, tokenizer: set(range(400)))
    with pytest.raises(SubjectError, match="samples that ended at once"):
        generate(tmp_path, **settings(writer, batch_size=500))


def test_an_encoder_is_refused(writer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SubjectModel, "load", lambda *_, **__: SimpleNamespace(causal=False, name="bert"))
    with pytest.raises(SubjectError, match="expected a causal language model to write text"):
        generate(tmp_path, **settings(writer))


def test_contexts_beyond_the_models_positions_are_refused(writer: Path, tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="at most 64 tokens"):
        generate(tmp_path, **settings(writer, context_length=65))


def test_divergence_by_hand() -> None:
    """Shares 3/4 and 1/4 against 1/2 and 1/2: KL = 3/4 ln(3/2) + 1/4 ln(1/2), total variation 1/4."""
    found = divergence(np.array([3, 1]), np.array([0.5, 0.5]), seed=0)
    assert found["kl"] == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    assert found["total_variation"] == pytest.approx(0.25)
    assert divergence(np.array([20, 20]), np.array([0.5, 0.5]), seed=0)["kl"] == 0


def test_divergence_by_chance_is_that_of_the_binomial() -> None:
    """De Moivre's mean absolute deviation of a binomial gives the expected total variation exactly."""
    probability, n = np.array([0.5, 0.3, 0.15, 0.05]), 50
    modes = np.floor(n * probability) + 1
    deviation = 2 * modes * (1 - probability) * stats.binom.pmf(modes, n, probability) / n
    found = divergence(np.array([25, 15, 7, 3]), probability, seed=1)
    assert found["total_variation_by_chance"] == pytest.approx(0.5 * deviation.sum(), rel=0.1)
    assert found["kl_by_chance"] == pytest.approx((len(probability) - 1) / (2 * n), rel=0.2)  # the chi-square limit


def test_decoding_spells_out_control_tokens(writer: Path) -> None:
    tokenizer = TextTokenizer.load(writer)
    ids = tokenizer.encode(["a garden ", "<s>"])
    assert tokenizer.decode([[1, *ids[0], 0], ids[1], []]) == ["</s>a garden <s>", "<s>", ""]
