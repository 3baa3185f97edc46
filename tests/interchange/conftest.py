"""The other libraries' own Pythons: their dependencies cannot live beside ours, nor beside each other's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from libraries import PEERS, Opened
from safetensors.torch import load_file, save_file
from torch import Tensor

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def library() -> Callable[..., str]:
    """Runs a file of this folder with a library's interpreter; the environment is built once, beside the repository's files."""

    def run(form: str, program: str, *arguments: str) -> str:
        peer = PEERS[form]
        peer.build()
        assert peer.python is not None
        command = [peer.python, str(HERE / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def opened(library: Callable[..., str]) -> Callable[[str, Path, dict[str, Tensor]], Opened]:
    """What a library makes of the SAE folders in a folder: per folder ``latents``, ``reconstruction`` and ``about``."""

    def run(form: str, root: Path, inputs: dict[str, Tensor]) -> Opened:
        save_file({name: x.contiguous() for name, x in inputs.items()}, root / "inputs.safetensors")
        library(form, f"open_with_{form}.py", str(root))
        tensors, about = load_file(root / "outputs.safetensors"), json.loads((root / "about.json").read_text())
        return {
            name: {"latents": tensors[f"{name}.latents"], "reconstruction": tensors[f"{name}.reconstruction"], "about": about[name]}
            for name in inputs
        }

    return run
