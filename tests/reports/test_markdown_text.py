"""Text of others in our Markdown is read as it was written."""

from __future__ import annotations

import pytest

from sae_pipeline.reports.blocks import Report, Section
from sae_pipeline.reports.markdown import render_markdown
from sae_pipeline.reports.markdown_text import escape
from sae_pipeline.reports.model_card import ModelCard, render_card

READ = {
    "<script>": "&lt;script&gt;",
    "&lt;script&gt;": "&amp;lt;script&amp;gt;",
    "R&D &amp; more": "R&amp;D &amp;amp; more",
    "- a point": r"\- a point",
    "+ a point": r"\+ a point",
    "1. a point": r"1\. a point",
    "23) a point": r"23\) a point",
    "---": r"\---",
    "~~~": r"\~\~\~",
    "+0.1 and −0.5": "+0.1 and −0.5",
    "-0.5": "-0.5",
    "1.5 points - no list": "1.5 points - no list",
    "a\n- b": "a - b",
    "`a` *b* [c](d) | # e_f": r"\`a\` \*b\* \[c\](d) \| \# e\_f",
}
"""A text and the Markdown that a reader shows it for, by CommonMark's rules of entities, backslashes, lists and rules."""


@pytest.mark.parametrize("text", READ)
def test_no_text_becomes_markup(text: str) -> None:
    assert escape(text) == READ[text]


def test_report_and_model_card_escape_alike() -> None:
    hostile = "&lt;script&gt;"
    report = render_markdown(Report(hostile, "1. first", None, "", (), (), (Section("s", "Section", (f"- {hostile}",)),)))
    assert "# &amp;lt;script&amp;gt;\n" in report
    assert "\n1\\. first\n" in report
    assert "\n\\- &amp;lt;script&amp;gt;\n" in report
    card = ModelCard(
        sae_id=hostile, library_name="sae_lens", licence="other", base_model=None, rule="", configuration={"note": hostile}, hook="", sources=(),
        figures=(), confidence=0.95, loading=(), checksums={},
    )  # fmt: skip
    assert "&lt;script" not in (text := render_card(card))
    assert "| note | &amp;lt;script&amp;gt; |" in text
