"""A process that reads data sets from the hub at HF_ENDPOINT, one question a line, and its side in the tests.

The hub's libraries read their settings once, when they are imported, so a hub on the loopback needs a process of its own.
One process answers many questions; each starts as a new process would, unless it says ``continued``. Pauses between
attempts are written down instead of waited for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

PART_RECORDS = 40
MARK_EVERY = 9
"""Neither number divides the rows of a file in the tests: connections break in the midst of parts and between marks."""


class HubReader:
    """The process; ``ask`` sends a question and waits for its answer."""

    def __init__(self, endpoint: str, home: Path, **environment: str) -> None:
        self.home = home
        settings = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2]), "no_proxy": "*"}
        self.errors = (home / "errors.txt").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=settings | environment
        )

    def send(self, dataset: str, store: Path, revision: str | None = None, **question: Any) -> None:
        """Ask without waiting.

        Args:
            dataset: its id; other fields of the study's entry go into ``fields``.
            store: the store it is spooled in.
            revision: of the data set.
            question: ``take`` documents (default: all), ``continued`` to keep open streams and listings, ``cold`` to forget
                what the hub's client has cached, ``copy`` to have the datasets library keep a whole copy first.
        """
        assert self.process.stdin is not None
        fields = {"kind": "huggingface", "dataset": dataset, "revision": revision, "shuffle_buffer": 5} | question.pop("fields", {})
        print(json.dumps({"fields": fields, "store": str(store)} | question), file=self.process.stdin, flush=True)

    def answer(self) -> dict[str, Any]:
        """The next answer: ``documents``, ``version``, ``commit``, ``dropped`` or ``error``; and ``pauses`` in seconds."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.process.wait(), (self.home / "errors.txt").read_text())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, dataset: str, store: Path, revision: str | None = None, **question: Any) -> dict[str, Any]:
        """:meth:`send`, then :meth:`answer`."""
        self.send(dataset, store, revision, **question)
        return self.answer()

    def close(self) -> int:
        """End it as a process ends that has nothing left to do; its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        code = self.process.wait(timeout=60)
        self.errors.close()
        return code


def main() -> None:
    """Answer the questions on standard input."""
    import shutil
    import time

    from sae_pipeline.corpora.sources import hub, open_source, spool
    from sae_pipeline.corpora.sources.hub import HubDataset
    from sae_pipeline.errors import SaePipelineError
    from sae_pipeline.store import Store
    from sae_pipeline.study.text_sections import HuggingFace

    spool.PART_RECORDS, hub.MARK_EVERY = PART_RECORDS, MARK_EVERY
    pauses: list[float] = []
    sleep = time.sleep

    def note(seconds: float) -> None:
        pauses.append(seconds)
        sleep(min(seconds, 0.005))

    time.sleep = note
    for line in sys.stdin:
        question = json.loads(line)
        import datasets
        from huggingface_hub import HfFileSystem

        pauses.clear()
        if not question.get("continued"):
            spool._OPEN.clear()
            HfFileSystem.clear_instance_cache()
        if question.get("cold"):
            shutil.rmtree(Path(os.environ["HF_HOME"]) / "hub", ignore_errors=True)
        fields = question["fields"]
        if question.get("copy"):
            datasets.load_dataset(fields["dataset"], revision=fields["revision"])
        source = open_source(HuggingFace(**fields), Store(Path(question["store"])))
        assert isinstance(source, HubDataset)
        try:
            answer: dict[str, Any] = {"version": source.data_version(), "commit": source.commit()}
            answer["documents"] = [document.text for document in islice(source.documents(0), question.get("take"))]
            answer["dropped"] = source.dropped
        except SaePipelineError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer | {"pauses": pauses}), flush=True)


if __name__ == "__main__":
    main()
