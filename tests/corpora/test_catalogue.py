"""The ready-made sources: every entry reads a folder laid out and typed like the data set it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from sae_pipeline.corpora.sources import open_source
from sae_pipeline.store import Store
from sae_pipeline.study import load_study
from sae_pipeline.study.presets import ABOUT, catalogue
from sae_pipeline.study.text_sections import HuggingFace

PAIR = {"sentence1": "A premise.", "sentence2": "A consequence.", "label": 1, "idx": 0}
JOINED = "A premise.\n\nA consequence."

ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "c4": ({"text": "A page.", "timestamp": "2019-04-25T12:57:54Z", "url": "https://example.org"}, "A page."),
    "the_pile": ({"text": "A paper.", "meta": {"pile_set_name": "ArXiv"}}, "A paper."),
    "openwebtext": ({"text": "A page."}, "A page."),
    "tinystories": ({"text": "Once upon a time."}, "Once upon a time."),
    "redpajama": ({"text": "A page.", "meta": "{'url': 'https://example.org'}", "red_pajama_subset": "common_crawl"}, "A page."),
    "wikitext": ({"text": " = Heading = \n"}, " = Heading = \n"),
    "ag_news": ({"text": "Headline. Opening.", "label": 2}, "Headline. Opening."),
    "imdb": ({"text": "A film.", "label": 0}, "A film."),
    "glue_cola": ({"sentence": "They drank.", "label": 1, "idx": 0}, "They drank."),
    "glue_sst2": ({"sentence": "fun ", "label": 1, "idx": 0}, "fun "),
    "glue_mrpc": (PAIR, JOINED),
    "glue_qqp": ({"question1": "Why?", "question2": "How so?", "label": 0, "idx": 0}, "Why?\n\nHow so?"),
    "glue_stsb": (PAIR | {"label": 3.8}, JOINED),
    "glue_mnli": ({"premise": "A premise.", "hypothesis": "A consequence.", "label": 1, "idx": 0}, JOINED),
    "glue_qnli": ({"question": "When?", "sentence": "Then.", "label": 1, "idx": 0}, "When?\n\nThen."),
    "glue_rte": (PAIR, JOINED),
    "glue_wnli": (PAIR, JOINED),
    "squad": (
        {"id": "5", "title": "T", "context": "A paragraph.", "question": "What?", "answers": {"text": ["a"], "answer_start": [0]}},
        "A paragraph.\n\nWhat?",
    ),
    "cnn_dailymail": ({"article": "News.", "highlights": "In short.", "id": "f"}, "News."),
    "code_search_net": (
        {
            "repository_name": "a/b", "func_path_in_repository": "c.py", "func_name": "f", "whole_func_string": "def f():\n    '''Doc.'''",
            "language": "python", "func_code_string": "def f():", "func_code_tokens": ["def"], "func_documentation_string": "Doc.",
            "func_documentation_tokens": ["Doc"], "split_name": "train", "func_code_url": "https://example.org",
        },
        "def f():\n    '''Doc.'''",
    ),
    "lmsys_chat_1m": (
        {
            "conversation_id": "1", "model": "vicuna-13b", "turn": 1, "language": "English", "redacted": False,
            "conversation": [{"content": "Hi", "role": "user"}, {"content": "Hello!", "role": "assistant"}],
            "openai_moderation": [{"flagged": False, "category_scores": {"hate": 0.1}}],
        },
        "User: Hi\n\nAssistant: Hello!",
    ),
    "lima": ({"conversations": ["Why?", "So."], "source": "stackexchange"}, "User: Why?\n\nAssistant: So."),
}  # fmt: skip
"""A row with the columns of each data set, and the document that it is."""

TRAIN, TRAIN_TEST = ("train",), ("train", "test")
TRAIN_VALIDATION, ALL_THREE = ("train", "validation"), ("train", "validation", "test")
MNLI = ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched")
CONVERTED = "refs/convert/parquet"

FACTS: dict[str, tuple[str, str | None, str | None, tuple[str, ...], str | tuple[str, ...] | dict[str, str]]] = {
    "c4": ("allenai/c4", "en", None, TRAIN_VALIDATION, "text"),
    "the_pile": ("monology/pile-uncopyrighted", None, None, ALL_THREE, "text"),
    "openwebtext": ("Skylion007/openwebtext", None, None, TRAIN, "text"),
    "tinystories": ("roneneldan/TinyStories", None, None, TRAIN_VALIDATION, "text"),
    "redpajama": ("togethercomputer/RedPajama-Data-1T-Sample", None, CONVERTED, TRAIN, "text"),
    "wikitext": ("Salesforce/wikitext", "wikitext-103-raw-v1", None, ALL_THREE, "text"),
    "ag_news": ("fancyzhx/ag_news", None, None, TRAIN_TEST, "text"),
    "imdb": ("stanfordnlp/imdb", None, None, ("train", "test", "unsupervised"), "text"),
    "glue_cola": ("nyu-mll/glue", "cola", None, ALL_THREE, "sentence"),
    "glue_sst2": ("nyu-mll/glue", "sst2", None, ALL_THREE, "sentence"),
    "glue_mrpc": ("nyu-mll/glue", "mrpc", None, ALL_THREE, ("sentence1", "sentence2")),
    "glue_qqp": ("nyu-mll/glue", "qqp", None, ALL_THREE, ("question1", "question2")),
    "glue_stsb": ("nyu-mll/glue", "stsb", None, ALL_THREE, ("sentence1", "sentence2")),
    "glue_mnli": ("nyu-mll/glue", "mnli", None, MNLI, ("premise", "hypothesis")),
    "glue_qnli": ("nyu-mll/glue", "qnli", None, ALL_THREE, ("question", "sentence")),
    "glue_rte": ("nyu-mll/glue", "rte", None, ALL_THREE, ("sentence1", "sentence2")),
    "glue_wnli": ("nyu-mll/glue", "wnli", None, ALL_THREE, ("sentence1", "sentence2")),
    "squad": ("rajpurkar/squad", None, None, TRAIN_VALIDATION, ("context", "question")),
    "cnn_dailymail": ("abisee/cnn_dailymail", "3.0.0", None, ALL_THREE, "article"),
    "code_search_net": ("code-search-net/code_search_net", "python", None, ALL_THREE, "whole_func_string"),
    "lmsys_chat_1m": ("lmsys/lmsys-chat-1m", None, None, TRAIN, {"field": "conversation"}),
    "lima": ("GAIR/lima", None, CONVERTED, TRAIN_TEST, {"field": "conversations"}),
}
"""Hub id, configuration, revision, splits, and the columns of the text or of the conversation; every entry reads the split train."""


def hub_shaped(folder: Path, config: str | None, splits: tuple[str, ...], row: dict[str, Any]) -> Path:
    """A folder as the hub lays it out: a README whose header names the configuration, and a parquet file for each split."""
    (folder / "data").mkdir(parents=True)
    for split in splits:
        pq.write_table(pa.Table.from_pylist([row]), folder / "data" / f"{split}-00000-of-00001.parquet")
    files = [{"split": split, "path": f"data/{split}-*"} for split in splits]
    header = {"configs": [{"config_name": config or "default", "data_files": files}]}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(header)}---\n")
    return folder


def study_with(folder: Path, source: dict[str, Any]) -> HuggingFace:
    study = {
        "name": "example",
        "subject": {"model": "bundled"},
        "sources": {"text": source},
        "mixes": {"only": {"text": 1.0}},
        "held_out": {"text": {"shares": {"text": 1.0}, "kind": "in_sample"}},
        "activations": {"layers": [1], "tokens": 200_000},
        "saes": {"expansions": [4], "arms": [{"architecture": "topk", "k": 8}]},
    }
    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    found = load_study(folder / "study.yaml").sources["text"]
    assert isinstance(found, HuggingFace)
    return found


@pytest.mark.parametrize("name", sorted(ROWS))
def test_an_entry_reads_a_data_set_of_its_shape(tmp_path, name):
    row, document = ROWS[name]
    _, config, _, splits, _ = FACTS[name]
    hub_shaped(tmp_path / "mirror", config, splits, row)
    source = study_with(tmp_path, {"preset": name, "dataset": "mirror"})
    assert source.dataset == str(tmp_path / "mirror")
    assert [d.text for d in open_source(source, Store(tmp_path / "store")).documents(0)] == [document]


def test_every_data_set_is_described_and_has_a_fixture():
    entries = catalogue()
    assert set(entries) == set(ROWS) == set(FACTS)
    assert all(entry.get(key) for entry in entries.values() for key in ABOUT)


@pytest.mark.parametrize("name", sorted(FACTS))
def test_an_entry_names_the_data_set_its_splits_and_its_columns(tmp_path, name):
    dataset, config, revision, splits, columns = FACTS[name]
    source = study_with(tmp_path, {"preset": name})
    assert (source.dataset, source.config, source.split, source.revision) == (dataset, config, "train", revision)
    assert catalogue()[name]["splits"] == list(splits)
    if isinstance(columns, dict):
        assert source.chat is not None
        assert source.chat.model_dump() == columns | {"template": "auto"}
    else:
        assert (source.text_field, source.chat) == (columns, None)


def test_what_a_caller_does_with_the_catalogue_does_not_change_it():
    catalogue()["lima"]["dataset"] = "another"
    assert catalogue()["lima"]["dataset"] != "another"
