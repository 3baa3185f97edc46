"""A study file or rubric of a few kilobytes cannot fill the memory, and one that no reader survives is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sae_pipeline.analysis.health.rubrics import load_rubric
from sae_pipeline.errors import StudyError
from sae_pipeline.safety.yaml_limits import check_yaml
from sae_pipeline.study import load_study

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 10))


def tower(storeys: int, levels: int) -> str:
    """Every anchor holds as many lists inside one another, and in the innermost the anchor before."""
    opened, closed = "[" * levels, "]" * levels
    return f"a0: &a0 {opened}x{closed}\n" + "".join(f"a{n}: &a{n} {opened}*a{n - 1}{closed}\n" for n in range(1, storeys))


FILES = {
    LAUGHS: "more than 100,000 values, aliases written out",
    MERGES: "more than 100,000 values, aliases written out",
    "a: &a [*a]\n": r"a value that contains itself \(\*a\)",
    "a: &a {b: [*a]}\n": r"a value that contains itself \(\*a\)",
    "[" * 5_000: "nested more than 50 deep",
    tower(60, 45): "nested more than 50 deep, aliases written out",
    "a: &a {b: " + "[" * 24 + "]" * 24 + "}\nc: " + "[" * 24 + "{<<: *a}" + "]" * 24 + "\n": "nested more than 50 deep, aliases written out",
    "a: 2001-99-99\n": "month must be in 1..12",
    "a: *nothing\n": "undefined alias|expected YAML",
    "? [a]\n: b\n": "expected YAML, found unhashable key",
}


@pytest.mark.parametrize(
    ("text", "words"),
    FILES.items(),
    ids=["laughs", "merges", "itself", "itself in a mapping", "deep", "deep by aliases", "deep by a merge", "date", "alias", "key"],
)
def test_a_file_that_is_more_than_it_looks_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(text)
    for read in (load_study, lambda path: load_rubric(str(path))):
        with pytest.raises(StudyError, match=words) as caught:
            read(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(("levels", "fits"), [(24, True), (25, False)])
def test_the_levels_of_an_alias_count_where_it_stands(levels: int, fits: bool) -> None:
    """The file's mapping is one level, an anchor's lists are twenty-five, and the lists around the alias the rest."""
    text = f"a: &a {'[' * 25}x{']' * 25}\nb: {'[' * levels}*a{']' * levels}\n"
    if fits:
        check_yaml(text)
    else:
        with pytest.raises(yaml.MarkedYAMLError, match="nested more than 50 deep"):
            check_yaml(text)


def test_aliases_are_welcome_where_they_save_writing(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: x\nheld_out: {a: &set {shares: {prose: 1.0}, kind: in_sample}, b: *set}\n")
    with pytest.raises(StudyError, match="the key 'subject' is missing") as caught:
        load_study(path)
    assert "held_out" not in str(caught.value)


@pytest.mark.parametrize("key", ["token", "hf_token", "password", "api_key"])
@pytest.mark.parametrize("section", ["subject", "sources.s"])
def test_a_study_file_has_no_place_for_a_token(key: str, section: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    written = {"subject": "{model: m}", "sources.s": "{kind: files, paths: [a.txt]}"}
    written[section] = written[section][:-1] + f", {key}: hf_abcdefghijklmnop}}"
    path.write_text(f"name: x\nsubject: {written['subject']}\nsources: {{s: {written['sources.s']}}}\n")
    with pytest.raises(StudyError, match=rf"unknown key '{key}'") as caught:
        load_study(path)
    assert "hf_abcdefghijklmnop" not in str(caught.value)
