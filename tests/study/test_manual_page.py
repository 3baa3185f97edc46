"""The manual page says of every key what it takes, and what it means where that is not plain."""

from __future__ import annotations

import pytest

from sae_pipeline.study import manual


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, str]]:
    """The meaning of every key, by the title of its section."""
    found: dict[str, dict[str, str]] = {}
    title = ""
    for line in manual.page().splitlines():
        if line.startswith("## "):
            title = line.removeprefix("## ")
        elif line.startswith("| `") and len(cells := line.strip("|").split(" | ")) == 3:
            found.setdefault(title, {})[cells[0].strip(" `")] = cells[2].strip()
    return found


def test_only_settings_of_arms_override_the_defaults(rows: dict[str, dict[str, str]]) -> None:
    overriding = {title for title, keys in rows.items() if any(meaning.startswith("overrides") for meaning in keys.values())}
    assert overriding == {"`saes.arms[]`"}
    assert rows["`saes.arms[]`"]["decay"] == "overrides `saes.defaults`; one of `linear`, `cosine`"


def test_no_key_is_left_without_a_meaning(rows: dict[str, dict[str, str]]) -> None:
    assert [(title, key) for title, keys in rows.items() for key, meaning in keys.items() if not meaning] == []
    assert rows["`sources.<name>`: `files`"]["kind"].startswith("kind of source; decides the keys")


def test_a_key_that_takes_a_number_or_a_word_says_so(rows: dict[str, dict[str, str]]) -> None:
    assert rows["`activations`"]["batch_size"].endswith("; a number or `auto`")
    assert rows["`activations`"]["storage_dtype"].endswith("; one of `float32`, `bfloat16`, `float16`")
