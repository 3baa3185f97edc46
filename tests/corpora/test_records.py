"""Records to documents: windows, filters, fields, lengths, and one word for every record that is left out."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_pipeline.corpora.sources.records import Malformed, RecordReader
from sae_pipeline.errors import SourceError
from sae_pipeline.study.text_sections import Filter, Records


def read(records: list[Any], **settings: Any) -> tuple[list[str], dict[str, int]]:
    """The texts, and what was left out."""
    dropped: Counter[str] = Counter()
    rows = ((f"row:{number}", record) for number, record in enumerate(records))
    return [document.text for document in RecordReader(Records(**settings), None).documents(rows, dropped)], dict(dropped)


def test_a_document_is_known_by_the_place_of_its_record():
    found = list(RecordReader(Records(), None).documents([("file:7", {"text": "x"})], Counter()))
    assert [(d.text, d.key, d.control_tokens, d.ids) for d in found] == [("x", "file:7", False, None)]


def test_several_fields_are_joined_by_a_blank_line_and_blank_ones_left_out():
    records = [{"title": "a", "body": "b"}, {"title": None, "body": "c"}, {"title": " ", "body": ""}]
    assert read(records, text_field=("title", "body")) == (["a\n\nb", "c"], {"empty": 1})


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ({"equals": "en"}, ["a"]),
        ({"one_of": ("de", "fr")}, ["b", "c"]),
        ({"matches": "^[df]"}, ["b", "c"]),
        ({"equals": "En"}, []),
    ],
)
def test_a_filter_keeps_records_that_fit_also_inside_nested_records(condition, kept):
    records = [{"text": t, "meta": {"lang": lang}} for t, lang in (("a", "en"), ("b", "de"), ("c", "fr"))]
    records += [{"text": "no column"}, {"text": "null", "meta": None}, {"text": "null inside", "meta": {"lang": None}}]
    texts, dropped = read(records, filters=[{"field": "meta.lang", **condition}])
    assert (texts, dropped["filtered"]) == (kept, 6 - len(kept))


def test_a_column_whose_own_name_has_a_dot_is_found_first():
    assert read([{"a.b": "x", "a": {"b": "y"}}], text_field="a.b")[0] == ["x"]


@pytest.mark.parametrize("numbers", [[1, 2.5, 4], ["1", "2.5", "4"]], ids=["numbers", "numbers written as text"])
def test_bounds_are_inclusive_and_compare_as_numbers(numbers):
    records = [{"text": str(n), "score": n} for n in numbers] + [{"text": "other", "score": "high"}]
    assert read(records, filters=[{"field": "score", "minimum": 2.5, "maximum": 4}])[0] == ["2.5", "4"]
    assert read(records, filters=[{"field": "score", "equals": 4}])[0] == ["4"]


def test_zero_and_one_stand_for_false_and_true():
    assert read([{"text": "a", "redacted": True}, {"text": "b", "redacted": False}], filters=[{"field": "redacted", "equals": 0}])[0] == ["b"]


def test_all_filters_and_all_conditions_of_a_filter_must_fit():
    records = [{"text": f"{n}{lang}", "n": n, "lang": lang} for n in (1, 2, 3) for lang in ("en", "de")]
    filters = [Filter(field="n", minimum=2, maximum=2), Filter(field="lang", equals="de")]
    assert read(records, filters=filters) == (["2de"], {"filtered": 5})


def test_lengths_are_counted_in_characters_and_a_cut_text_is_whole_up_to_there():
    records = [{"text": "é" * n} for n in (1, 2, 3, 4)]
    assert read(records, min_characters=2, max_characters=3) == (["éé", "ééé"], {"too_short": 1, "too_long": 1})
    assert read(records, min_characters=2, max_characters=3, over_length="cut") == (["éé", "ééé", "ééé"], {"too_short": 1})


def test_a_text_that_is_blank_up_to_the_cut_is_empty():
    assert read([{"text": " " * 5 + "x"}], max_characters=4, over_length="cut") == ([], {"empty": 1})


@given(skip=st.integers(0, 12), take=st.none() | st.integers(1, 12), blank=st.sets(st.integers(0, 9)))
def test_a_window_counts_records_as_they_come_whatever_becomes_of_them(skip, take, blank):
    records = [{"text": "" if i in blank else str(i)} for i in range(10)]
    window = range(10)[skip : None if take is None else skip + take]
    texts, dropped = read(records, window={"skip": skip, "take": take})
    assert texts == [str(i) for i in window if i not in blank]
    assert dropped.get("empty", 0) == len(blank & set(window))


def test_nothing_is_read_beyond_a_window():
    def rows():
        yield "a", {"text": "x"}
        raise AssertionError("read on")

    assert len(list(RecordReader(Records(window={"take": 1}), None).documents(rows(), Counter()))) == 1


def test_a_column_that_no_record_has_is_an_error_that_names_what_there_is():
    with pytest.raises(SourceError, match="row:0: expected the field body, found the fields text, n; set 'text_field'"):
        read([{"text": "x", "n": 1}], text_field="body", malformed="skip")
    with pytest.raises(SourceError, match=r"data\.parquet: expected the field c, found the fields a, b"):
        RecordReader(Records(text_field=("a", "c")), None).require("data.parquet", ["a", "b"])


def test_a_record_that_lacks_a_column_others_have_is_malformed():
    records = [{"text": "x"}, {"body": "y"}, {"text": "z"}]
    assert read(records, malformed="skip") == (["x", "z"], {"malformed": 1})
    with pytest.raises(SourceError, match="row:1: expected the field text, found the fields body; mend it, or set 'malformed: skip'"):
        read(records)


def test_only_columns_that_decide_the_documents_are_asked_for():
    filters = [{"field": "meta.lang", "equals": "en"}]
    assert RecordReader(Records(text_field=("a", "b"), filters=filters), None).columns == {"a", "b", "meta", "meta.lang"}
    assert RecordReader(Records(chat={"field": "turns"}), None).columns == {"turns"}
    assert RecordReader(Records(chat={}), None).columns is None


def test_a_row_too_long_to_hold_is_counted_and_never_refused():
    assert read([Malformed("expected less, found more", too_long=True), {"text": "x"}]) == (["x"], {"too_long": 1})
