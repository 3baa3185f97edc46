"""Installed packages as text: parsed and never imported, and no object in two sources."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sae_pipeline.corpora.sources import open_source
from sae_pipeline.corpora.sources.installed import InstalledObjects, dealt_to
from sae_pipeline.corpora.sources.parsing import DocumentedObject, parse_file
from sae_pipeline.errors import SourceError
from sae_pipeline.store import Store
from sae_pipeline.study.text_sections import InstalledText

USES = ("installed_docs", "installed_code", "installed_instructions")
LONG = "Say what this does, at a length that makes it worth reading as a document, which takes one hundred characters."


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def documents(store) -> dict[str, list]:
    return {use: list(open_source(InstalledText(kind=use, packages=("networkx",)), store).documents(0)) for use in USES}


def test_each_use_has_text_and_no_object_is_in_two(documents):
    keys = [{d.key for d in documents[use]} for use in USES]
    assert all(len(found) > 100 for found in keys)
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert not keys[1] & keys[2]


def test_no_docstring_and_no_code_of_one_use_is_inside_another(documents):
    prose = {d.text for d in documents["installed_docs"]}
    code = {d.text for d in documents["installed_code"]}
    answers = {d.text.split("\n\nAssistant: ", 1)[1] for d in documents["installed_instructions"]}
    assert not prose & answers
    assert not code & answers


def test_instructions_have_both_shapes(documents):
    texts = [d.text for d in documents["installed_instructions"]]
    assert all(text.startswith("User: ") for text in texts)
    with_code = sum("def " in text.split("Assistant: ", 1)[1][:400] for text in texts)
    assert 0.2 < with_code / len(texts) < 0.8


def test_the_three_uses_share_one_extraction_and_the_seed_only_reorders(store, documents):
    assert len(list(store.artifacts())) == 1
    source = InstalledObjects("installed_docs", ("networkx",), store)
    again, other = ([d.key for d in source.documents(seed)] for seed in (0, 1))
    assert again == [d.key for d in documents["installed_docs"]] != other
    assert sorted(again) == sorted(other)


def test_a_package_is_parsed_without_being_imported(tmp_path):
    (tmp_path / "explosive").mkdir()
    (tmp_path / "explosive" / "__init__.py").write_text(f'"""{LONG}"""\nraise SystemExit("imported")\n')
    (tmp_path / "explosive" / "broken.py").write_text("def (")
    (tmp_path / "explosive" / "tests").mkdir()
    (tmp_path / "explosive" / "tests" / "test_it.py").write_text(f'"""Tests. {LONG}"""\n')
    script = f"""
from pathlib import Path
from sae_pipeline.corpora.sources.installed import InstalledObjects
from sae_pipeline.store import Store
source = InstalledObjects("installed_docs", ["explosive"], Store(Path({str(tmp_path / "store")!r})))
print(source._extracted().summary["objects"], source._extracted().summary["files"])
"""
    # from standard input, as in a notebook: workers must not depend on a main script that can be started again
    environment = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}", "PATH": ""}
    ran = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, env=environment, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "1 2"


def test_a_package_without_a_distribution_is_versioned_by_its_files(tmp_path, monkeypatch, store):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_notes.py").write_text(f'"""{LONG}"""\n')
    source = InstalledObjects("installed_docs", ("own_notes",), store)
    before = source.data_version()
    (tmp_path / "own_notes.py").write_text(f'"""Now {LONG}"""\n')
    assert source.data_version() != before


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("no_such_package", "expected the import name of a top-level package"),
        ("networkx.algorithms", "expected the import name of a top-level package"),
        ("scikit-learn", "expected the import name of a top-level package"),
        ("sys", "expected Python source files, found a module of kind built-in"),
    ],
)
def test_a_package_that_cannot_be_read_is_one_sentence(store, package, message):
    with pytest.raises(SourceError, match=f"installed package '{package}': {message}"):
        InstalledObjects("installed_docs", (package,), store).data_version()


def test_packages_without_documented_objects_are_an_error(tmp_path, monkeypatch, store):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "taciturn.py").write_text("x = 1\n")
    with pytest.raises(SourceError, match="installed_code: expected documented objects in the packages taciturn, found none"):
        list(InstalledObjects("installed_code", ("taciturn",), store).documents(0))


# ------------------------------------------------------------------------------------------------ parsing


def test_objects_have_qualified_names_and_functions_lose_their_docstring_but_keep_decorators(tmp_path):
    (tmp_path / "m.py").write_text(
        f'"""{LONG}"""\nclass A:\n    """{LONG}"""\n    if True:\n        @staticmethod\n'
        f'        def f(x):\n            """{LONG}"""\n            return x\n'
        "\n    def short(self):\n        'Too short.'\n        return 1\n"
    )
    found = parse_file(tmp_path / "m.py", "pkg.m")
    assert [(o.qualified_name, o.kind) for o in found] == [("pkg.m", "module"), ("pkg.m.A", "class"), ("pkg.m.A.f", "function")]
    assert [o.source for o in found] == ["", "", "@staticmethod\ndef f(x):\n    return x"]
    assert {o.docstring for o in found} == {LONG}


def test_a_file_that_is_not_python_has_no_objects(tmp_path):
    (tmp_path / "m.py").write_bytes(b"\x00\xff")
    assert parse_file(tmp_path / "m.py", "m") == []


def test_only_functions_with_code_are_dealt_to_code():
    uses = {
        kind: {dealt_to(DocumentedObject(f"p.{i}", kind, LONG, source)) for i in range(60)}
        for kind, source in (("class", ""), ("function", "x" * 100))
    }
    assert uses == {"class": {"installed_docs", "installed_instructions"}, "function": set(USES)}
