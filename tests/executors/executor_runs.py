"""The command line in a process of its own, with an executor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from sae_pipeline.store import Home, file_sha256

COMMAND = [sys.executable, "-W", "ignore", "-c", "from sae_pipeline.cli import main; main()"]


def start(study: str, home: Path, **environment: str) -> subprocess.Popen[str]:
    """`sae-pipeline run --json` as a process group of its own."""
    around = {name: value for name, value in os.environ.items() if not name.startswith(("SAE_", "RAY_"))}
    around |= {"SAE_HOME": str(home), "PYTHONWARNINGS": "ignore", "RAY_USAGE_STATS_ENABLED": "0", **environment}
    return subprocess.Popen(
        [*COMMAND, "run", study, "--json"], env=around, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # what is started in the background ignores it
    )  # fmt: skip


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[dict[str, Any], str]:
    """The JSON answer (empty where there is none) and what was said to the user; the exit code must be this."""
    out, said = process.communicate(timeout=600)
    assert process.returncode == code, said
    assert "Traceback" not in said
    return json.loads(out.strip().splitlines()[-1]) if out.strip() else {}, said


def run(study: str, home: Path, **environment: str) -> dict[str, Any]:
    """The answer of a run in which nothing failed."""
    answer, said = finish(start(study, home, **environment))
    assert answer["failed"] == 0, said
    return answer


def weights(home: Path) -> dict[str, str]:
    """Checksum of the weights of every stored SAE, by fingerprint."""
    return {found.fingerprint: file_sha256(found.path / "sae_weights.safetensors") for found in Home(home).store.artifacts() if found.stage == "saes"}
