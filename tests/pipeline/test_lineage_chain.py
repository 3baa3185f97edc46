"""`sae-pipeline lineage`: from an SAE down to the text it was trained on and up to the report, and from tokens to documents."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_study import SmallStudy
from typer.testing import CliRunner

from sae_pipeline.cli import app
from sae_pipeline.corpora.corpus import Corpus
from sae_pipeline.stages import corpora
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import load_study

pytestmark = pytest.mark.slow

SAE = "MORE.L01.x04.topk-k4-t6144-s0"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_study_data: dict[str, Any]) -> tuple[str, Path]:
    """A study of one cell per mix, run once: (study file, home)."""
    folder = tmp_path_factory.mktemp("chain")

    def one_cell(data: dict[str, Any]) -> None:
        data["activations"]["layers"], data["saes"]["expansions"] = [1], [4]

    path = SmallStudy(folder / "toy.yaml", small_study_data).write(one_cell)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAE_HOME", str(folder / "home"))
        assert CliRunner().invoke(app, ["run", path]).exit_code == 0
    return path, folder / "home"


@pytest.fixture(autouse=True)
def _home(finished: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAE_HOME", str(finished[1]))


def traced(study: str, *options: str) -> dict[str, Any]:
    """The JSON answer of the command."""
    result = CliRunner().invoke(app, ["lineage", SAE, "--study", study, "--json", *options])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.strip().splitlines()[-1])


def test_the_chain_runs_from_the_text_to_the_report(finished: tuple[str, Path]) -> None:
    chain = traced(finished[0])
    before, after = [[link["what"] for link in chain[side]] for side in ("before", "after")]
    assert {"subject_model", "MORE/corpus", "MORE/activations L01"} <= set(before)
    assert before.index("MORE/corpus") < before.index("MORE/activations L01")
    assert {"MORE/scorecard L01", "metric_tables", "findings", "comparison_report"} <= set(after)
    assert after.index("MORE/scorecard L01") < after.index("metric_tables") < after.index("findings") < after.index("comparison_report")


def test_what_only_the_other_mix_uses_is_not_in_the_chain(finished: tuple[str, Path]) -> None:
    chain = traced(finished[0])
    assert not any(link["what"].startswith("LESS/") for link in (*chain["before"], *chain["beside"], *chain["after"]))
    parts = ("corpus", "activations L01", "baseline L01")
    evaluated_on = {f"held_out/{name}/{part}" for name in ("stories", "recipes") for part in parts}
    assert {link["what"] for link in chain["beside"]} == {"spelling L01", *evaluated_on}


def test_every_artifact_named_lies_in_the_store_with_that_hash_and_those_versions(finished: tuple[str, Path]) -> None:
    chain = traced(finished[0])
    for link in (*chain["before"], chain["sae"], *chain["beside"], *chain["after"]):
        manifest = json.loads((finished[1] / "store" / link["stage"] / link["fingerprint"] / "manifest.json").read_text())
        assert (manifest["content"], manifest["created"], manifest["libraries"]) == (link["content"], link["created"], link["libraries"])
        assert {"torch", "sae-pipeline"} <= set(link["libraries"])


def test_the_study_file_is_named_with_its_hash(finished: tuple[str, Path]) -> None:
    assert traced(finished[0])["study_file"] == {"path": finished[0], "sha256": hashlib.sha256(Path(finished[0]).read_bytes()).hexdigest()}


def test_a_corpus_tells_its_sources_with_shares_documents_and_tokens(finished: tuple[str, Path]) -> None:
    (corpus,) = [link for link in traced(finished[0])["before"] if link["what"] == "MORE/corpus"]
    shares = {text["source"]: text["share"] for text in corpus["text"]}
    assert shares == {"stories": 0.75, "recipes": 0.25}
    assert sum(text["tokens"] for text in corpus["text"]) == 8_192
    assert all(text["documents"] > 0 and text["data_version"] and text["commit"] is None for text in corpus["text"])


def test_tokens_lead_back_to_their_documents(finished: tuple[str, Path]) -> None:
    rows = traced(finished[0], "--tokens", "30:100")["documents"]
    ctx = StudyContext.open(load_study(finished[0]))
    corpus = Corpus.load(corpora.need(ctx, "MORE"))
    numbers, places = corpus.document.flatten().tolist(), corpus.position.flatten().tolist()
    told = {place: (row, place - row["start"] + row["position"]) for row in rows for place in range(row["start"], row["end"])}
    assert set(told) == {place for place in range(30, 100) if numbers[place] >= 0}
    for place, (row, position) in told.items():
        document = corpus.documents.iloc[numbers[place]]
        assert (row["source"], row["key"], row["document_hash"]) == (document["source"], document["key"], document["document_hash"])
        assert position == places[place]


def test_the_text_of_a_named_document_holds_the_words_of_its_tokens(finished: tuple[str, Path], toy_text: Path) -> None:
    row = traced(finished[0], "--tokens", "1:12", "--corpus", "held_out/stories")["documents"][0]
    ctx = StudyContext.open(load_study(finished[0]))
    documents = pd.read_parquet(corpora.need(ctx, "held_out/stories").file("documents.parquet"))
    text = documents.set_index("document_hash").loc[row["document_hash"], "text"]
    assert json.dumps({"text": text}) in (toy_text / "stories.jsonl").read_text().splitlines()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--tokens", "5"], "--tokens: expected two whole numbers as A:B"),
        (["--tokens", "0:9000"], "expected A:B with 0 <= A < B <= 8192, the tokens of MORE, found 0:9000"),
        (["--tokens", "7:7"], "0 <= A < B"),
        (["--corpus", "MORE"], "--corpus: expected --tokens beside it, found none"),
        (["--tokens", "0:9", "--corpus", "code"], "--corpus: expected a mix or evaluation set of the study 'toy' (MORE, LESS, held_out/stories"),
    ],
)
def test_tokens_that_are_not_there_are_refused_in_one_sentence(finished: tuple[str, Path], options: list[str], sentence: str) -> None:
    result = CliRunner().invoke(app, ["lineage", SAE, "--study", finished[0], *options])
    assert result.exit_code != 0
    assert sentence in str(result.exception)


def test_an_unknown_sae_is_refused_in_one_sentence(finished: tuple[str, Path]) -> None:
    result = CliRunner().invoke(app, ["lineage", "NOBODY", "--study", finished[0]])
    assert "found 'NOBODY'" in str(result.exception)


def test_the_chain_is_printed_with_the_sae_marked(finished: tuple[str, Path]) -> None:
    result = CliRunner().invoke(app, ["lineage", SAE, "--study", finished[0]])
    assert result.exit_code == 0
    assert f"→ {SAE} (saes " in result.stdout
    assert "75 % stories, data version " in result.stdout
