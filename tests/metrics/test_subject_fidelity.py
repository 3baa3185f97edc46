"""The whole way with a real language model, stored shards and published artifacts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from metrics_toys import constant_sae, identity_sae, random_corpus, random_sae
from safetensors.torch import save_file
from torch import Tensor

from sae_pipeline.activations.shards import SHARD, ActivationShards
from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.corpora.corpus import Corpus
from sae_pipeline.metrics.baselines import Baseline, measure_baseline
from sae_pipeline.metrics.evaluate import evaluate_saes
from sae_pipeline.metrics.kept_streams import KeptStreams, StreamKeeper
from sae_pipeline.metrics.ratios import metrics_from_sums
from sae_pipeline.store import Store

D_MODEL, VOCABULARY = 16, 300


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> SubjectModel:
    """A two-layer GPT-2 with random weights, large enough ones to make layers matter."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(["to be"], trainers.BpeTrainer(special_tokens=["<s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>").save_pretrained(folder)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=32, n_embd=D_MODEL, n_layer=2, n_head=2, initializer_range=0.5, bos_token_id=0, eos_token_id=0
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(folder)
    return SubjectModel.load(str(folder))


@pytest.fixture(scope="module")
def evaluation_set(subject: SubjectModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, ActivationShards, str]:
    """Eight contexts of 32 random tokens, their stored activations after block 0 in two shards, and the hook."""
    corpus = random_corpus(8, 32, VOCABULARY, torch.Generator().manual_seed(1))
    hook = subject.hook_name("resid_post", 0)
    activations = subject.capture(corpus.tokens.long(), [hook])[hook]
    folder, paths = tmp_path_factory.mktemp("shards"), []
    for number, contexts in enumerate((slice(0, 5), slice(5, 8))):
        columns: dict[str, Tensor] = {"tokens": corpus.tokens, "document": corpus.document, "position": corpus.position}
        rows = {name: column[contexts].flatten().contiguous() for name, column in columns.items()}
        paths.append(folder / SHARD.format(number))
        save_file(rows | {"activations": activations[contexts].flatten(0, 1).contiguous()}, paths[-1], {"context_length": "32"})
    return corpus, ActivationShards(paths), hook


def test_a_real_model_meets_both_ends_of_the_scale(
    subject: SubjectModel, evaluation_set: tuple[Corpus, ActivationShards, str], tmp_path: Path
) -> None:
    """Exact reconstruction gives the clean model, zero reconstruction the zero-ablated and the mean the mean-ablated one."""
    corpus, shards, hook = evaluation_set
    common = {"activations": shards, "corpus": corpus, "model": subject, "hook": hook, "ce_tokens": 10**6, "batch_size": 3}
    with Store(tmp_path).draft("baselines", "toy", {}) as draft:
        summary = measure_baseline(draft.path, **common, outlier_norm_ratio=10.0)  # type: ignore[arg-type]
        baseline = Baseline.load(draft.publish(summary))  # type: ignore[union-attr]
    saes = {
        "identity": identity_sae(D_MODEL),
        "zero": constant_sae(torch.zeros(D_MODEL)),
        "mean": constant_sae(baseline.mean.float()),
        "random": random_sae(D_MODEL, 32, "topk", torch.Generator().manual_seed(2)),
    }
    folders = {name: tmp_path / name for name in saes}
    for folder in folders.values():
        folder.mkdir()
    metrics = evaluate_saes(folders, saes, baseline=baseline, **common)  # type: ignore[arg-type]

    same = metrics["identity"]
    assert same["ce_sae"] == same["ce_clean"]
    assert same["kl_divergence"] == 0
    assert same["explained_variance"] == 1
    assert metrics["zero"]["ce_sae"] == pytest.approx(metrics["zero"]["ce_zero"], rel=1e-6)
    assert metrics["mean"]["ce_sae"] == pytest.approx(metrics["mean"]["ce_mean"], rel=1e-6)
    assert metrics["random"]["kl_divergence"] > 0.01  # type: ignore[operator]

    # The clean cross-entropy once more, from the model's own logits and torch's own loss.
    targets = torch.where(corpus.special, -100, corpus.tokens.long())[:, 1:]
    expected = torch.nn.functional.cross_entropy(subject.logits(corpus.tokens)[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100)
    assert same["ce_clean"] == pytest.approx(expected.item(), rel=1e-5)
    assert summary["ce_clean"] == same["ce_clean"]

    # What was written recombines to what was returned.
    documents = pd.read_parquet(folders["random"] / "documents.parquet")
    recombined = metrics_from_sums(documents, baseline.documents, baseline.sum_x, baseline.sum_x_inlier, d_sae=32)
    assert recombined == {name: metrics["random"][name] for name in recombined}


def test_bos_is_never_replaced(subject: SubjectModel, evaluation_set: tuple[Corpus, ActivationShards, str]) -> None:
    """What a replacement writes leaves BOS and separators as they were, so every branch shares them."""
    from sae_pipeline.metrics.fidelity import constant, reconstructed, text_batches

    corpus, _, hook = evaluation_set
    batch = next(text_batches(corpus, torch.arange(len(corpus.documents)), ce_tokens=64, batch_size=2))
    x = subject.capture(batch.tokens, [hook])[hook]
    special = corpus.special[:2]
    assert special[:, 0].all()
    sae = constant_sae(torch.ones(D_MODEL))
    for change in (constant(torch.ones(D_MODEL), batch.replaced), reconstructed(sae, batch.replaced)):
        after = change(x)
        assert torch.equal(after[special], x[special])
        assert (after[~special] == 1).all()


def test_kept_streams_spare_passes_and_change_no_figure(
    subject: SubjectModel, evaluation_set: tuple[Corpus, ActivationShards, str], tmp_path: Path
) -> None:
    """The clean model runs again for the contexts that there was no room for, with the same bits."""
    corpus, shards, hook = evaluation_set
    common = {"activations": shards, "corpus": corpus, "model": subject, "hook": hook, "ce_tokens": 10**6, "batch_size": 3}
    with Store(tmp_path).draft("baselines", "toy", {}) as draft:
        baseline = Baseline.load(draft.publish(measure_baseline(draft.path, **common, outlier_norm_ratio=10.0)))  # type: ignore[arg-type, union-attr]
    assert baseline.streams.contexts == corpus.n_contexts
    StreamKeeper(0).write(tmp_path / "none.safetensors")
    sae = random_sae(D_MODEL, 32, "topk", torch.Generator().manual_seed(2))
    found = []
    for n, streams in enumerate((baseline.streams, KeptStreams(tmp_path / "none.safetensors"))):
        (tmp_path / str(n)).mkdir()
        held = replace(baseline, streams=streams)
        found.append(evaluate_saes({"sae": tmp_path / str(n)}, {"sae": sae}, baseline=held, **common)["sae"])  # type: ignore[arg-type]
    assert found[0] == found[1]
