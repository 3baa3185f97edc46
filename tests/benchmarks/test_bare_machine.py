"""Our trainer runs where only torch, numpy and safetensors are installed, as on a GPU machine that is lent for an hour."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from benchmark_runs import FOLDER

BLOCK = """
import importlib.metadata, re, sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

def closure(names):
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop().lower().replace("-", "_")
        if name in found:
            continue
        found.add(name)
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting += [re.match(r"[A-Za-z0-9_.-]+", each).group() for each in needed if "extra ==" not in each]
    return found

allowed = closure(["torch", "numpy", "safetensors"]) | set(sys.stdlib_module_names)
allowed |= {"sae_pipeline", "protocol", "training_loop", "our_training", "torchgen", "functorch", "jinja2", "mpmath"}

class Only:
    @staticmethod
    def find_spec(name, path=None, target=None):
        hidden = name.split(".")[0] not in allowed and not name.startswith("_")
        return None if hidden else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Only]
import our_training, json
for setup in json.loads(sys.argv[1]):
    about, actions = our_training.load(setup)
    actions["train"](steps=2)
    assert actions["evaluate"]()["steps"] == 2
assert "pydantic" not in sys.modules and "numba" not in sys.modules
"""


def test_our_trainer_needs_torch_numpy_and_safetensors_alone(tmp_path: Path) -> None:
    """Every other third-party package is hidden from it; every architecture takes two steps."""
    import train
    from training_rows import ROWS, write_activations

    architectures = sorted({row.architecture for row in ROWS})
    written = write_activations(tmp_path, 32, 256, 64, n_features=64, l0=4, seed=0)
    arguments = type("Arguments", (), {"threads": 1, "device": "cpu"})()
    setups = []
    for row in {row.architecture: row.tiny() for row in ROWS}.values():
        own = {"name": row.architecture, "writes_initial": True, "initial": str(tmp_path / f"{row.architecture}.npz")}
        setups.append(train.base_setup(row, arguments, tmp_path, written) | own)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(FOLDER.parent), str(FOLDER / "workers")]), "OMP_NUM_THREADS": "1"}
    finished = subprocess.run([sys.executable, "-c", BLOCK, json.dumps(setups)], capture_output=True, text=True, env=environment, check=False)
    assert finished.returncode == 0, finished.stderr
    for architecture in architectures:
        with np.load(tmp_path / f"{architecture}.npz") as initial:
            assert {"W_enc", "b_enc", "W_dec", "b_dec"} <= set(initial.files)
            assert initial["W_enc"].shape == (32, 128)
