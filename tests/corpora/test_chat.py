"""Conversations: every shape of turns is found, and every template writes what it says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_text import byte_tokenizer, chat_tokenizer

from sae_pipeline.corpora.chat import Turn, Writing, turns_of
from sae_pipeline.corpora.documents import Document
from sae_pipeline.corpora.sources.records import RecordReader
from sae_pipeline.errors import SourceError
from sae_pipeline.study.text_sections import Records

ASKED = [Turn("user", "Why?"), Turn("assistant", "So.")]
MESSAGES = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]


def read(records: list[dict[str, Any]], tokenizer=None, chat: dict[str, str] | None = None, **settings: Any) -> tuple[list[Document], dict[str, int]]:
    """The documents, and what was left out."""
    dropped: Counter[str] = Counter()
    reader = RecordReader(Records(chat=chat or {}, **settings), None if tokenizer is None else lambda: tokenizer)
    return list(reader.documents(((f"row:{n}", record) for n, record in enumerate(records)), dropped)), dict(dropped)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": MESSAGES},
        {"conversation": MESSAGES, "language": "English"},
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
        {"conversations": ["Why?", "So."], "source": "lima"},
        {"messages": {"role": ["user", "assistant"], "content": ["Why?", "So."]}},
        {"messages": [{"role": "User ", "content": [{"type": "text", "text": "Why?"}]}, {"role": "MODEL", "content": ["So."]}]},
        {"prompt": "Why?", "completion": "So."},
        {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]},
        {"instruction": "Why?", "output": "So."},
        {"instruction": "Why?", "input": "", "output": "So."},
        {"messages": None, "prompt": "Why?", "completion": "So."},
        {"messages": [], "prompt": "Why?", "completion": "So."},
        {"messages": {"role": [], "content": []}, "conversations": [], "prompt": [], "completion": [], "instruction": "Why?", "output": "So."},
    ],
    ids=lambda record: "-".join(record),
)
def test_every_shape_of_turns_is_the_same_conversation(record):
    assert turns_of(record) == ASKED


@pytest.mark.parametrize(
    "record",
    [{"messages": []}, {"messages": None}, {"conversations": [], "n": 1}, {"prompt": None, "completion": "x"}, {"prompt": [], "completion": "x"}],
)
def test_a_record_without_turns_is_counted(record):
    assert read([record]) == ([], {"no_turns": 1})


def test_a_conversation_of_blank_turns_is_empty_also_where_a_template_would_write_control_tokens():
    assert read([{"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": None}]}], chat_tokenizer()) == ([], {"empty": 1})


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": "hello"}, "expected a list of turns in the field 'messages', found str"),
        ({"messages": [[["deep"]]]}, r"expected a record with role and content in messages\[0\], found list"),
        ({"messages": [{"role": "user", "content": "a"}, "b"]}, r"messages\[1\], found str"),
        ({"messages": [{"role": "user", "text": "a"}]}, r"expected 'content' or 'value' in messages\[0\], found the fields role, text"),
        ({"messages": [{"role": "stranger", "content": "a"}]}, r"expected a role among system.* found 'stranger'"),
        ({"messages": [{"content": "a"}]}, "found None"),
        ({"messages": [{"role": "user", "content": 7}]}, r"expected text in messages\[0\], found int"),
        (
            {"messages": {"from": ["user"] * 3, "value": ["a"] * 2}},
            "as many values in each column of the field 'messages', found 3 of 'from', 2 of 'value'",
        ),
        ({"prompt": 3, "completion": "x"}, "expected a list of turns in the field 'prompt', found int"),
        ({"instruction": {"a": 1}, "output": "x"}, "expected text in instruction, found dict"),
    ],
)
def test_turns_of_no_known_form_are_refused_by_place_or_counted(record, message):
    with pytest.raises(SourceError, match=f"row:0: .*{message}.*; mend it, or set 'malformed: skip'"):
        read([record])
    assert read([record], malformed="skip") == ([], {"malformed": 1})


def test_a_record_without_any_column_of_turns_names_the_columns_found():
    with pytest.raises(SourceError, match="found the fields text, id; set 'text_field' or 'chat'"):
        read([{"text": "x", "id": 1}], malformed="skip")
    with pytest.raises(SourceError, match="expected the field rounds, found the fields messages"):
        read([{"messages": MESSAGES}], chat={"field": "rounds"})


def test_the_turns_may_be_in_any_column_also_a_nested_one():
    found, _ = read([{"data": {"rounds": MESSAGES}, "messages": "not these"}], chat={"field": "data.rounds"})
    assert [d.text for d in found] == ["User: Why?\n\nAssistant: So."]


# ------------------------------------------------------------------------------------------------ templates


WRITTEN = {
    "plain": "System: Be brief.\n\nUser: Why?\n\nThe sky.\n\nAssistant: So.",
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?\n\nThe sky.<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>\n",
    "alpaca": "Be brief.\n\n### Instruction:\nWhy?\n\n### Input:\nThe sky.\n\n### Response:\nSo.",
    "tokenizer": "<|turn|>system\nBe brief.<|end|>\n<|turn|>user\nWhy?\n\nThe sky.<|end|>\n<|turn|>assistant\nSo.<|end|>\n",
}


@pytest.mark.parametrize("template", sorted(WRITTEN))
def test_a_template_writes_the_turns(template):
    turns = [Turn("system", "Be brief."), Turn("user", "Why?", "The sky."), Turn("assistant", "So.")]
    writing = Writing(template, chat_tokenizer())
    assert writing.text(turns) == WRITTEN[template]
    assert writing.control_tokens == (template == "tokenizer")


def test_alpaca_opens_as_published_with_and_without_input():
    opening = (
        "Below is an instruction that describes a task{}. Write a response that appropriately completes the request.\n\n### Instruction:\nWhy?\n\n"
    )
    alpaca = Writing("alpaca", None)
    assert alpaca.text(ASKED) == opening.format("") + "### Response:\nSo."
    with_input = [Turn("user", "Why?", "The sky."), Turn("assistant", "So.")]
    assert (
        alpaca.text(with_input)
        == opening.format(", paired with an input that provides further context") + "### Input:\nThe sky.\n\n### Response:\nSo."
    )


@pytest.mark.parametrize(("tokenizer", "name"), [(chat_tokenizer, "tokenizer"), (byte_tokenizer, "plain"), (lambda: None, "plain")])
def test_auto_takes_the_tokenizers_template_where_there_is_one(tokenizer, name):
    assert Writing("auto", tokenizer()).name == name


@pytest.mark.parametrize("tokenizer", [byte_tokenizer, lambda: None])
def test_asking_for_a_template_that_is_not_there_is_an_error(tokenizer):
    with pytest.raises(SourceError, match=r"expected the subject's tokenizer to have a chat template.*choose plain"):
        read([{"messages": MESSAGES}], tokenizer(), chat={"template": "tokenizer"})


def test_a_document_says_whether_its_control_tokens_are_meant():
    rendered, _ = read([{"messages": MESSAGES}], chat_tokenizer())
    plain, _ = read([{"messages": MESSAGES}], chat_tokenizer(), chat={"template": "plain"})
    assert [d.control_tokens for d in rendered + plain] == [True, False]


def test_a_speaker_who_spells_a_control_token_is_left_out_only_where_it_would_become_one():
    records = [{"messages": [{"role": "user", "content": "what is <|end|>?"}]}, {"instruction": "a", "input": "<eos>", "output": "b"}]
    assert read(records, chat_tokenizer()) == ([], {"control_tokens": 2})
    assert len(read(records, chat_tokenizer(), chat={"template": "chatml"})[0]) == 2


def test_turns_that_the_template_refuses_are_malformed():
    records = [{"messages": [{"role": "tool", "content": "x"}]}]
    with pytest.raises(SourceError, match="row:0: expected turns that the tokenizer's chat template takes, found: no tools here"):
        read(records, chat_tokenizer())
    assert read(records, chat_tokenizer(), malformed="skip") == ([], {"malformed": 1})


def test_half_a_surrogate_pair_in_a_turn_is_replaced():
    assert [d.text for d in read([{"prompt": "a\ud800", "completion": "b"}])[0]] == ["User: a?\n\nAssistant: b"]


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6), limit=st.integers(1, 120))
def test_a_long_conversation_is_cut_after_its_last_turn_that_fits(lengths, limit):
    turns = ["abcdefghijkl"[:n] for n in lengths]
    prefixes = [
        Writing("tokenizer", chat_tokenizer()).text([Turn("assistant" if i % 2 else "user", t) for i, t in enumerate(turns[:n])])
        for n in range(1, len(turns) + 1)
    ]
    fitting = [text for text in prefixes if len(text) <= limit]
    cut, dropped = read([{"messages": turns}], chat_tokenizer(), max_characters=limit, over_length="cut")
    assert [d.text for d in cut] == fitting[-1:]
    assert dropped == ({} if fitting else {"too_long": 1})
    skipped, _ = read([{"messages": turns}], chat_tokenizer(), max_characters=limit)
    assert [d.text for d in skipped] == ([prefixes[-1]] if len(prefixes[-1]) <= limit else [])


def test_the_template_enters_the_identity_of_what_is_read():
    def identity(template: str, tokenizer) -> list[str | int] | None:
        return RecordReader(Records(chat={"template": template}), lambda: tokenizer).template

    assert identity("auto", chat_tokenizer()) != identity("auto", byte_tokenizer())
    assert identity("plain", chat_tokenizer()) == identity("plain", byte_tokenizer())


def test_the_tokenizer_is_loaded_only_for_conversations_and_once():
    loaded = []
    dropped: Counter[str] = Counter()
    rows = [("a", {"text": "x", "messages": MESSAGES})] * 3
    for records in (Records(), Records(chat={})):
        reader = RecordReader(records, lambda: loaded.append(1) or byte_tokenizer())
        assert len(list(reader.documents(rows, dropped))) == 3
        assert (reader.template is None) is (records.chat is None)
    assert loaded == [1]
