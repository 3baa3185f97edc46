"""A whole run with secrets in its environment, on private and hostile text: no secret is written anywhere, and the pages stay text."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from browser import chromium, chromium_or_skip
from dagster_ui import COMMAND
from loopback_hub import COMMIT, Hub, loopback_hub
from small_study import SmallStudy, toy_documents
from test_report_pages import HOSTILE, assert_harmless, opened

pytestmark = [pytest.mark.slow, pytest.mark.ui]

TOKEN = "hf_SecretOfTheHub"
WRONG = "hf_SecretThatIsWrong"
SECRETS = {
    "HF_TOKEN": TOKEN,
    "AWS_SECRET_ACCESS_KEY": "SecretOfTheBucket",
    "AWS_SESSION_TOKEN": "SecretOfTheSession",
    "WANDB_API_KEY": "SecretOfTheTracker",
    "MLFLOW_TRACKING_PASSWORD": "SecretOfTheServer",
    "https_proxy": "http://me:SecretOfTheProxy@127.0.0.1:9",
}
NEEDLES = [b"SecretOf", b"SecretThat"]


@dataclass
class Lab:
    """A user's folder: the study, the home, and everything that commands printed."""

    folder: Path
    hub: Hub
    said: list[str]

    def run(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """One command as a process of its own."""
        hub = {"HF_ENDPOINT": self.hub.endpoint, "HF_HOME": str(self.folder / "huggingface"), "no_proxy": "127.0.0.1"}
        environment = os.environ | SECRETS | hub | {"SAE_HOME": str(self.folder / "home"), "PYTHONWARNINGS": "ignore"} | changes
        done = subprocess.run([*COMMAND, *arguments], env=environment, cwd=self.folder, capture_output=True, text=True, timeout=600)
        self.said.append(done.stdout + done.stderr)
        return done


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, small_study_data: dict[str, Any]) -> Iterator[Lab]:
    """A study that streams from a hub which wants the token, run to its end."""
    folder = tmp_path_factory.mktemp("lab")
    text = folder / "private" / "data"
    text.mkdir(parents=True)
    documents = [f"{HOSTILE[n % 6]} {document}" for n, document in enumerate(toy_documents("stories", 400))]
    (text / "train.jsonl").write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))

    def edit(data: dict[str, Any]) -> None:
        data["description"] = " ".join(HOSTILE)
        data["sources"] = {"stories": {"kind": "huggingface", "dataset": "me/private"}}
        data["mixes"] = {"ALL": {"stories": 1.0}}
        data["held_out"] = {"stories": {"shares": {"stories": 1.0}, "kind": "in_sample", "tokens": 1_000}}
        data["activations"] = {"layers": [0], "context_length": 32, "tokens": 4_096, "shard_tokens": 2_048}
        data["saes"] = {"expansions": [2], "defaults": {"tokens": 2_048, "batch_size": 256}, "arms": [{"architecture": "topk", "k": 4}]}

    SmallStudy(folder / "toy.yaml", small_study_data).write(edit)
    with loopback_hub({"me/private": {COMMIT: folder / "private"}}) as hub:
        hub.token = TOKEN
        user = Lab(folder, hub, [])
        done = user.run("run", "toy.yaml", "--json")
        assert done.returncode == 0, done.stderr
        yield user


def leaks(lab: Lab) -> list[str]:
    """Files under the user's folder, and words on the terminal, that hold a secret."""
    found = [text for text in lab.said if any(needle.decode() in text for needle in NEEDLES)]
    for path in (path for path in lab.folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += str(pq.read_table(path).to_pylist()).encode()
        found += [str(path)] * any(needle in content for needle in NEEDLES)
    return found


def test_the_token_opened_the_private_text_and_is_written_nowhere(lab: Lab) -> None:
    sae_id = json.loads(lab.run("saes", "toy.yaml", "--json").stdout.splitlines()[-1])["saes"][0]["sae_id"]
    for command in (
        ("export", sae_id, "--study", "toy.yaml", "--to", "exported"),
        ("lineage", sae_id, "--study", "toy.yaml", "--tokens", "0:64"),
        ("track", "toy.yaml", "--with", "tensorboard"),
        ("doctor",),
        ("plan", "toy.yaml"),
    ):
        done = lab.run(*command)
        assert done.returncode == 0, (command, done.stderr)
    assert any("me/private" in request for request in lab.hub.seen)
    assert any(path.suffix == ".db" for path in lab.folder.rglob("*"))  # Dagster's event log is among what is looked through
    assert leaks(lab) == []
    (lab.folder / "note").write_text(TOKEN)
    assert leaks(lab) == [str(lab.folder / "note")]
    (lab.folder / "note").unlink()


@pytest.mark.parametrize("failure", ["wrong token", "no such data set", "hub away", "password in the address", "password in the store's address"])
def test_a_run_that_fails_says_why_and_keeps_the_secret(failure: str, lab: Lab) -> None:
    study = lab.folder / f"{failure.replace(' ', '_').replace(chr(39), '')}.yaml"
    text = (lab.folder / "toy.yaml").read_text().replace("name: toy", "name: other")
    study.write_text(text.replace("me/private", "me/nothing") if failure == "no such data set" else text)
    address = lab.hub.endpoint.removeprefix("http://")
    done = lab.run(
        "run",
        study.name,
        "--json",
        **{
            "wrong token": {"HF_TOKEN": WRONG},
            "no such data set": {},
            "hub away": {"HF_ENDPOINT": "http://127.0.0.1:9"},
            "password in the address": {"HF_ENDPOINT": f"http://me:SecretOfTheAddress@{address}"},
            "password in the store's address": {"SAE_STORE": "nothing://me:SecretOfTheStore@127.0.0.1:9/x?signature=SecretOfTheQuery"},
        }[failure],
    )
    assert done.returncode in (1, 2), done.stdout
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr
    assert leaks(lab) == []


def test_a_report_of_hostile_documents_is_shown_and_never_run(lab: Lab) -> None:
    chromium_or_skip()
    report = lab.folder / "home" / "studies" / "toy" / "report"
    with chromium(lab.folder / "profile") as browser:
        assert_harmless(*opened(browser, report / "index.html"), HOSTILE[0], HOSTILE[2])
        assert_harmless(*opened(browser, sorted((report / "features").glob("*.html"))[0]))
