"""Measuring tools side by side: warm processes that take turns, so that what the machine does meanwhile hits all alike.

Absolute rates on a shared machine drift from minute to minute; the ratio of two measurements a few seconds apart does
not. Every figure that compares is therefore the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent


@dataclass(frozen=True)
class Peer:
    """A tool to compare with, in a virtual environment of its own beside the repository's files.

    Attributes:
        name: as in the table.
        environment: folder of the virtual environment in the repository.
        variable: environment variable that names another interpreter to use.
        requirements: file in this folder with the exact versions.
        unwanted: packages to remove after installing.
    """

    name: str
    environment: str
    variable: str
    requirements: str
    unwanted: tuple[str, ...] = ()

    @property
    def python(self) -> str | None:
        """The interpreter, or None where the environment was not built, or not to its end."""
        folder = REPOSITORY / self.environment
        return os.environ.get(self.variable) or (str(folder / "bin" / "python") if (folder / "complete").exists() else None)

    def build(self) -> None:
        """Make the environment unless it is there; from the package index, so this needs a network."""
        if self.python is not None:
            return
        folder = REPOSITORY / self.environment
        requirements = HERE / self.requirements
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "-r", str(requirements)], check=True)
        if self.unwanted:
            subprocess.run([*pip, "uninstall", "--yes", *self.unwanted], check=True)
        (folder / "complete").write_text(requirements.read_text())


class Worker:
    """A running process of ``workers/protocol.py``.

    Attributes:
        about: what the tool said of itself.
        resident_mib: resident memory once it had loaded its model.
    """

    def __init__(
        self, script: str, python: str, setup: dict[str, Any], folder: Path, name: str | None = None, variables: dict[str, str] | None = None
    ) -> None:
        """Start it and go on at once; :meth:`ready` waits for it.

        Args:
            name: of its files and in messages, where two processes run one script.
            variables: of its environment, beside those that every worker gets.
        """
        self.name = name or script.removesuffix(".py")
        self.about: dict[str, Any] = {}
        self.resident_mib = 0.0
        setup_file = folder / f"{self.name}.json"
        setup_file.write_text(json.dumps(setup))
        self._log = folder / f"{self.name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [python, str(HERE / "workers" / script), str(setup_file)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder, env=_environment(setup["threads"], python) | (variables or {}),
            )  # fmt: skip

    def ready(self) -> None:
        """Wait until the model is loaded."""
        found = self._answer()
        self.about, self.resident_mib = found["about"], found["resident_mib"]

    def ask(self, action: str, **arguments: Any) -> dict[str, Any]:
        """Have one action done and return what it measured, with ``peak_mib`` of the process while it ran."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"action": action, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"error": "the process ended"}
        if "error" in found:
            raise SystemExit(f"{self.name} failed: {found['error']}\n{self._log.read_text(errors='replace')[-3000:]}")
        return found

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._process.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _environment(threads: int, python: str) -> dict[str, str]:
    """Threads stated for every library; no network; the repository's packages for this interpreter, and for no peer's."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    if python == sys.executable:
        kept["PYTHONPATH"] = str(REPOSITORY)
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    return kept | counts | quiet | {"TQDM_DISABLE": "1", "WANDB_MODE": "disabled"}


def paired(above: list[dict[str, Any]], below: list[dict[str, Any]], field: str) -> float:
    """Median over rounds of the ratio of one field within the round."""
    return statistics.median(a[field] / b[field] for a, b in zip(above, below, strict=True))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    try:
        cpu = next(line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
        flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")).split()
    except (OSError, StopIteration):
        cpu, flags = platform.processor() or platform.machine(), []
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(memory, 1), "system": f"{platform.system()} {platform.machine()}",
        "bfloat16": [name for name in ("avx512_bf16", "amx_bf16") if name in flags], "load_before": [round(x, 2) for x in os.getloadavg()],
    }  # fmt: skip
