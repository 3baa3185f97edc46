"""What several test folders share: a tiny checkpoint of another model family, toy text, a small study on both, and a browser's tab."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_table import as_markdown, by_kind, rows_of, write_page
from small_study import WORDS, SmallStudy, toy_documents

SLOW_FIRST = ("ui", "faults", "pipeline")
"""Folders whose files take minutes: started first, so that two workers end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow folders first, everything else in its order."""
    items.sort(key=lambda item: SLOW_FIRST.index(item.path.parent.name) if item.path.parent.name in SLOW_FIRST else len(SLOW_FIRST))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-page", type=Path, help="Markdown page into which the table of the fault suite is written")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table of the fault suite, where some of it was run."""
    if rows := rows_of(terminalreporter):
        terminalreporter.write_line("\n" + as_markdown(by_kind(rows)))
        if (page := config.getoption("--fault-page")) is not None:
            write_page(page, rows)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama checkpoint with random weights and its own byte-level BPE tokenizer, as a local folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("llama")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([t for topic in WORDS for t in toy_documents(topic, 50)], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer BERT with random weights and a word tokenizer that opens with [CLS] and separates with [SEP]."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(word for topic in WORDS.values() for word in topic)]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", mask_token="[MASK]"
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def toy_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stories.jsonl, recipes.parquet and letters.jsonl."""
    import pandas as pd

    folder = tmp_path_factory.mktemp("text")
    for topic in WORDS:
        documents = toy_documents(topic, 700)
        if topic == "recipes":
            pd.DataFrame({"text": documents}).to_parquet(folder / "recipes.parquet")
        else:
            (folder / f"{topic}.jsonl").write_text("".join(json.dumps({"text": d}) + "\n" for d in documents))
    return folder


@pytest.fixture(scope="session")
def small_study_data(tiny_llama: Path, toy_text: Path) -> dict[str, Any]:
    """The data of the small study."""
    return {
        "name": "toy",
        "subject": {"model": str(tiny_llama)},
        "sources": {
            "stories": {"kind": "files", "paths": [str(toy_text / "stories.jsonl")]},
            "recipes": {"kind": "files", "paths": [str(toy_text / "recipes.parquet")]},
        },
        "mixes": {"MORE": {"stories": 0.75, "recipes": 0.25}, "LESS": {"stories": 0.25, "recipes": 0.75}},
        "held_out": {
            "stories": {"shares": {"stories": 1.0}, "kind": "in_sample", "tokens": 2_000},
            "recipes": {"shares": {"recipes": 1.0}, "kind": "domain_shift", "tokens": 2_000},
        },
        "activations": {"layers": [0, 1], "context_length": 32, "tokens": 8_192, "shard_tokens": 2_048},
        "saes": {
            "expansions": [2, 4],
            "defaults": {"tokens": 6_144, "batch_size": 256},
            "arms": [{"architecture": "topk", "k": 4, "seeds": [0, 1]}],
        },
        "evaluation": {"ce_tokens": 512},
        "analysis": {"bootstrap_samples": 200},
        "compute": {"device": "cpu"},
    }


@pytest.fixture
def small_study(tmp_path: Path, small_study_data: dict[str, Any]) -> SmallStudy:
    """The small study in this test's own folder."""
    return SmallStudy(tmp_path / "toy.yaml", small_study_data)


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A tab of the browser that a folder of tests starts."""
    page = browser.new_page()
    yield page
    page.close()
