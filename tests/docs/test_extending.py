"""The examples of docs/extending.md do what the page says, run exactly as they stand there."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_pipeline.metrics import ratios, registry
from sae_pipeline.saes import architectures

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"


@pytest.fixture(autouse=True)
def _registries_stay_as_they_are() -> Iterator[None]:
    tables: list[dict[str, Any]] = [architectures.ARCHITECTURES, ratios.FROM_TOTALS, registry.METRICS]
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


def run_example(heading: str) -> dict[str, Any]:
    """The names that the Python block under a heading defines."""
    section = PAGE.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, f"{PAGE.name}: {heading}", "exec"), names)
    return names


class Rows:
    """Shuffled batches over fixed rows; what :func:`sae_pipeline.saes.trainer.train_arms` reads activations from."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        directions = torch.nn.functional.normalize(torch.randn(32, 16, generator=generator), dim=1)
        active = torch.rand(6_000, 32, generator=generator) < 3 / 32
        self.x = active * (0.5 + torch.rand(6_000, 32, generator=generator)) @ directions

    def sample(self, size: int) -> torch.Tensor:
        return self.x[:size]

    def held_out(self, half: int) -> torch.Tensor:
        return self.x[4_000 + half :: 2]

    def batches(self, start: int, size: int, count: int, device: str) -> Iterator[torch.Tensor]:
        for first in range(start, start + size * count, size):
            yield self.x[torch.arange(first, first + size) % 4_000]


@pytest.mark.parametrize("dies_at", [None, 25])
def test_the_architecture_trains_ends_with_k_latents_and_survives_a_kill(dies_at: int | None, tmp_path: Path) -> None:
    from sae_pipeline.saes.arm import Arm
    from sae_pipeline.saes.inference import InferenceSAE
    from sae_pipeline.saes.trainer import train_arms

    example = run_example("An architecture")["AnnealedTopK"]
    arm = Arm(
        architecture="annealed_topk", k=3, target_l0=None, tokens=64 * 60, init_seed=0, data_seed=0, batch_size=64, learning_rate=3e-3, warmup_share=0.0,
        decay_share=0.2, auxk_coefficient=0.0, dead_window_share=1.0, b_dec_init="mean", normalise=True,
    )  # fmt: skip
    asked: list[int] = []
    plain = example.select

    def watched(self: Any, centred: torch.Tensor) -> Any:
        if dies_at is not None and len(asked) == dies_at:
            asked.append(-1)
            raise KeyboardInterrupt
        code = plain(self, centred)
        asked.append(len(code.values) // len(centred))
        return code

    example.select = watched

    def train(folder: Path) -> InferenceSAE:
        folder.mkdir(exist_ok=True)
        settings: dict[str, Any] = {"d_model": 16, "d_sae": 48, "checkpoint_every": 10, "label": "toy", "metadata": {}}
        train_arms({"a": folder}, {"a": arm}, stream=Rows(), **settings)
        return InferenceSAE.load(folder)

    if dies_at is not None:
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed")
    trained = train(tmp_path / "killed")
    if dies_at is None:
        assert (asked[0], asked[30], asked[59]) == (12, 3, 3)
        assert asked[:31] == sorted(asked[:31], reverse=True)
    uninterrupted = train(tmp_path / "whole")
    assert torch.equal(trained.W_dec, uninterrupted.W_dec)
    assert (trained.encode(Rows().x) > 0).sum(1).max() <= 3


def test_the_metric_is_formed_from_sums_and_documented() -> None:
    import pandas as pd

    from sae_pipeline.metrics.manual import page

    run_example("A metric")
    documents = pd.DataFrame({"sse": [9.0, 7.0]})
    baseline = pd.DataFrame({"sum_sq": [60.0, 40.0]})
    assert ratios.Totals(documents, baseline, np.ones((1, 2))).metric("rmse_share").item() == pytest.approx(0.4)
    assert "rmse_share" in page()


def test_the_source_gives_every_document_once_and_its_version_follows_the_text(tmp_path: Path) -> None:
    file = tmp_path / "texts.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE pages (body TEXT)")
        connection.executemany("INSERT INTO pages VALUES (?)", [(f"page {n % 40} of the book",) for n in range(50)])
    source = run_example("A source of text")["SQLiteTable"](file, "pages", "body")
    texts = [document.text for document in source.documents(seed=0)]
    assert sorted(texts) == sorted(f"page {n} of the book" for n in range(40))
    assert source.dropped == {"duplicate": 10}
    assert texts == [document.text for document in source.documents(seed=0)] != [document.text for document in source.documents(seed=1)]
    version = source.data_version()
    with sqlite3.connect(file) as connection:
        connection.execute("INSERT INTO pages VALUES ('one more')")
    assert source.data_version() != version


def test_the_rubric_of_the_other_page_is_accepted_by_name(tmp_path: Path) -> None:
    from sae_pipeline.analysis.health.rubrics import load_rubrics

    other = (PAGE.parent / "rubrics.md").read_text().split("## A file of your own")[1]
    (text,) = re.findall(r"```yaml\n(.*?)```", other, re.DOTALL)
    (tmp_path / "lab.v1.yaml").write_text(text)
    assert [rubric.name for rubric in load_rubrics((str(tmp_path / "lab.v1.yaml"), "house.v1"))] == ["lab.v1", "house.v1"]
