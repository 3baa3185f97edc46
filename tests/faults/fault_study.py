"""The study that is disturbed, its undisturbed home, copies of it in which some of the work is still to be done, and what a home holds."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from fault_runs import Disturbance, Seen, run
from loopback_hub import COMMIT, Hub
from small_study import toy_documents

from sae_pipeline.store import Home

DATASET = "lab/stories"
README = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n# Stories\n"
MEASURED = {"seconds", "train_seconds", "tokens_per_second", "created", "recorded", "resident_bytes", "device_bytes", "fingerprint", "content"}
"""Columns that say how long something took, when it was or what it needed, and names that follow from those: they differ between any two runs."""
TIMED_STAGES = {"scorecard", "tables", "findings", "history", "report", "rubric_review"}
"""Stages whose artifacts hold such columns, and so differ where everything was computed from nothing."""


def write_texts(folder: Path) -> dict[str, dict[str, Path]]:
    """``recipes.jsonl``, and stories as the data set of a hub: its folders by commit."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    hub = folder / "hub"
    (hub / "data").mkdir(parents=True)
    (hub / "README.md").write_text(README)
    stories = toy_documents("stories", 400)
    for number in range(4):
        pq.write_table(pa.table({"text": stories[number::4]}), hub / "data" / f"train-{number}.parquet", row_group_size=25)
    (folder / "recipes.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in toy_documents("recipes", 400)))
    return {DATASET: {COMMIT: hub}}


def write_study(folder: Path) -> Path:
    """A study with one mix, layer and expansion that asks for everything that the pipeline has."""
    data = {
        "name": "toy",
        "subject": {
            "model": "bundled",
            "bundled": {"d_model": 16, "n_layers": 2, "n_heads": 2, "vocab_size": 300, "tokens": 30_000, "learning_rate": 1e-2},
        },
        "sources": {
            "stories": {"kind": "huggingface", "dataset": DATASET, "revision": COMMIT},
            "recipes": {"kind": "files", "paths": [str(folder / "recipes.jsonl")]},
            "baking": {"kind": "retrieved", "source": "recipes", "keywords": ["flour", "butter"], "top": 200},
        },
        "mixes": {"MORE": {"stories": 0.5, "recipes": 0.25, "baking": 0.25}},
        "held_out": {"stories": {"shares": {"stories": 1.0}, "kind": "in_sample", "tokens": 2_000}},
        "activations": {"layers": [1], "context_length": 32, "tokens": 8_192, "shard_tokens": 1_024},
        "saes": {
            "expansions": [2],
            "checkpoint_every": 5,
            "defaults": {"tokens": 6_144, "batch_size": 256},
            "arms": [{"architecture": "topk", "k": 4, "seeds": [0, 1]}],
        },
        "evaluation": {"ce_tokens": 512},
        "positions": {"tokens": 1_000},
        "matching": {"threshold": 0.5, "pairs_per_factor": 3, "correlation_tokens": 500},
        "concepts": {"token_concepts": 20, "min_occurrences": 3},
        "schedules": {"evaluation": "0 4 * * 1", "versions": "0 5 1 * *", "rubric_review": "0 6 1 1,4,7,10 *"},
        "analysis": {"bootstrap_samples": 100},
        "compute": {"device": "cpu"},
    }
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


@dataclass(frozen=True)
class Place:
    """A home on which a case happens."""

    study: Path
    root: Path
    hub: Hub
    draw: random.Random
    missing_bytes: int
    """Of what has to be computed."""

    @cached_property
    def home(self) -> Home:
        return Home(self.root)

    def run(self, *disturbances: Disturbance) -> Seen:
        """``sae-pipeline run``, to its end."""
        return run(self.root, "run", str(self.study), "--json", disturbances=disturbances)

    def command(self, *arguments: str) -> Seen:
        """Another command on the home."""
        return run(self.root, *arguments)

    def artifact(self, stage: str) -> Path:
        """The folder of a stage's first artifact."""
        return next(iter(sorted((self.home.store.root / stage).iterdir())))

    def file(self, stage: str, name: str) -> Path:
        """A file of a stage's first artifact that has one of that name."""
        return next(iter(sorted((self.home.store.root / stage).glob(f"*/{name}"))))

    def draft(self, stage: str, name: str) -> Path:
        """A file of a half-finished artifact."""
        return next(iter(sorted((self.home.store.root / ".partial" / stage).glob(f"*/{name}"))))


@dataclass(frozen=True)
class Undisturbed:
    """A finished home, put aside, and what it holds."""

    study: Path
    root: Path
    """Where it was computed, and where each case happens to a copy of it."""
    kept: Path
    """Where it is now."""
    computed: dict[str, Any]
    files: set[str]


def copy_of(undisturbed: Path, target: Path, redo: Sequence[str] = ()) -> int:
    """A home that lacks what the patterns name, and is otherwise as the undisturbed run left it; how many bytes it lacks."""
    shutil.copytree(undisturbed, target)
    lacking = 0
    for path in [path for pattern in redo for path in target.glob(pattern)]:
        lacking += sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return lacking


# ------------------------------------------------------------------------------------------------ what a home holds


def whole(home: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """(inode, time of change) of the manifest of every artifact that is there without damage, by stage and fingerprint."""
    found = {}
    for manifest in sorted((home / "store").glob("[!.]*/*/manifest.json")):
        if _is_sound(manifest):
            status = manifest.stat()
            found[manifest.parts[-3], manifest.parts[-2]] = (status.st_ino, status.st_mtime_ns)
    return found


def _is_sound(manifest: Path) -> bool:
    """Whether the artifact's files have the bytes that its manifest tells of."""
    try:
        told = json.loads(manifest.read_text())["files"]
        return all(hashlib.sha256((manifest.parent / name).read_bytes()).hexdigest() == file["sha256"] for name, file in told.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def contents(home: Path) -> dict[str, Any]:
    """What was computed: content of every artifact, the weights' bits, and the tables of the warehouse without what was measured of the machine."""
    import duckdb

    found: dict[str, Any] = {}
    for stage, fingerprint in whole(home):
        folder = home / "store" / stage / fingerprint
        found[f"{stage}/{fingerprint}"] = json.loads((folder / "manifest.json").read_text())["content"]
        for weights in folder.rglob("*.safetensors"):
            found[f"{stage}/{fingerprint}/{weights.name}"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    with duckdb.connect(str(home / "studies/toy/warehouse.duckdb"), read_only=True) as warehouse:
        for (table,) in warehouse.execute("SHOW TABLES").fetchall():
            columns = [f'"{name}"' for name, *_ in warehouse.execute(f'DESCRIBE "{table}"').fetchall() if name not in MEASURED]
            found[f"warehouse/{table}"] = sorted(map(repr, warehouse.execute(f'SELECT {", ".join(columns)} FROM "{table}"').fetchall()))
    return found


def lasting(found: dict[str, Any]) -> dict[str, Any]:
    """What is equal even where everything was computed from nothing: without artifacts that hold what was measured of the machine."""
    return {name: value for name, value in found.items() if name.partition("/")[0] not in TIMED_STAGES}


def files(home: Path) -> set[str]:
    """Every file of a home but Dagster's own, what was put into quarantine, and the locks that a process makes when it needs them."""
    paths = (path.relative_to(home) for path in home.rglob("*") if path.is_file())
    kept = (path for path in paths if not path.parts[0].startswith("dagster") and ".quarantine" not in path.parts)
    return {str(path) for path in kept if path.parts[0] != "locks" or path.name.startswith("launcher-")}


def unnamed(names: set[str]) -> set[str]:
    """The files without the fingerprints and dates in their names, and without the earlier versions of a study, of which there can be more."""
    return {re.sub(r"[0-9a-f]{24}|\d{4}-\d\d-\d\dT\d{6}Z", "*", name) for name in names if "/history/versions/" not in name}
