"""The training table: its rows, what they hold, and that interruptions leave neither gaps nor repetitions."""

from __future__ import annotations

import json
import logging
import random

import pytest
import torch
from runs_compared import Killed, interrupt, record

from sae_pipeline.saes.architectures import ARCHITECTURES
from sae_pipeline.saes.checkpoint import NAME as CHECKPOINT
from sae_pipeline.saes.monitoring import MACHINE_COLUMNS, Monitor, read_monitoring


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_row_every_n_steps_and_one_at_the_end(name, make_arm, train, stream):
    summaries, folders = train({"a": make_arm(name, tokens=64 * 47)}, stream, monitor_every=10)
    rows = read_monitoring(folders["a"] / "monitoring.jsonl")
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 47]
    assert [row["tokens"] for row in rows] == [640, 1280, 1920, 2560, 3008]
    named = {"loss", "mse", "l0", "explained_variance", "dead_share", "learning_rate", *MACHINE_COLUMNS}
    for row in rows:
        assert list(row) == list(rows[0])
        assert named <= set(row)
        assert row["explained_variance"] == 1 - row["mse"]
        assert row["resident_bytes"] > 10**7
        assert row["device_bytes"] == 0
        assert row["tokens_per_second"] > 0
    assert rows[-1]["mse"] == summaries["a"]["final_loss"]
    assert rows[-1]["dead_share"] == summaries["a"]["dead_share"]
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)


def test_every_line_is_json_of_its_own(make_arm, train, stream):
    _, folders = train({"a": make_arm("topk")}, stream, monitor_every=20)
    lines = (folders["a"] / "monitoring.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [20, 40, 60]
    assert all(isinstance(json.loads(line)["step"], int) for line in lines)


def test_kills_leave_neither_gaps_nor_repetitions(make_arm, train, stream, monkeypatch, tmp_path):
    arms, folders = {"a": make_arm("jumprelu")}, {"a": tmp_path / "a"}
    for at_step in sorted(random.Random(5).sample(range(60), 6)):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            interrupt(patch, at_step)
            train(arms, stream, folders=folders, monitor_every=4, checkpoint_every=7)
    train(arms, stream, folders=folders, monitor_every=4, checkpoint_every=7)
    assert [row["step"] for row in record(folders["a"])] == list(range(4, 61, 4))
    times = [row["seconds"] for row in read_monitoring(folders["a"] / "monitoring.jsonl")]
    assert times == sorted(times)


def test_what_is_measured_of_the_machine_is_in_no_file_that_decides_the_sae(make_arm, train, stream):
    """Configuration and weights are equal to the byte; seconds are in the record of the training alone."""
    runs = [train({"a": make_arm("batchtopk")}, stream, monitor_every=every)[1]["a"] for every in (7, 60)]
    for name in ("cfg.json", "sae_weights.safetensors"):
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes()


def test_many_rows_fit_a_checkpoint(make_arm, train, stream, monkeypatch, tmp_path):
    """They are a tensor of it: a header of JSON is limited, and slow to read."""
    arms, folders = {"a": make_arm("topk", tokens=64 * 400)}, {"a": tmp_path / "a"}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt(patch, 395)
        train(arms, stream, folders=folders)
    assert (folders["a"] / CHECKPOINT).stat().st_size < 64 * 390 * 4
    train(arms, stream, folders=folders)
    assert [row["step"] for row in record(folders["a"])] == list(range(1, 401))


def test_a_rising_share_of_dead_latents_is_said_once_with_its_step(caplog):
    monitor = Monitor("PRE L01 x08 a", 100)
    with caplog.at_level(logging.WARNING):
        for step, dead in ((100, 0.1), (200, 0.3), (300, 0.4), (400, 0.2)):
            monitor.add({"step": step, "tokens": step * 64, "dead_share": dead}, float(step), torch.device("cpu"))
    assert [found.getMessage().split(";")[0] for found in caplog.records] == ["PRE L01 x08 a: 30 % of the latents are dead at step 200"]
    assert [row["tokens_per_second"] for row in monitor.rows] == [64.0] * 4


def test_a_restored_monitor_has_the_same_rows():
    monitor, other = Monitor("a", 1), Monitor("a", 1)
    for step in (1, 2, 2**53 - 1):
        monitor.add({"step": step, "tokens": step, "loss": 0.1 + step, "dead_share": 0.0}, float(step), torch.device("cpu"))
    other.load_state(*monitor.state())
    assert other.rows == monitor.rows
    assert [list(map(type, row.values())) for row in other.rows] == [list(map(type, row.values())) for row in monitor.rows]
