"""What the cases of the fault suite share: a hub, and the home of a run that nothing disturbed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_runs import start_server
from fault_study import Place, Undisturbed, contents, files, write_study, write_texts
from loopback_hub import Hub, loopback_hub


@pytest.fixture(scope="session")
def fault_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="session")
def troubled_hub(fault_folder: Path) -> Iterator[Hub]:
    """The hub from which the study streams, which the processes of all runs know."""
    with loopback_hub(write_texts(fault_folder)) as hub:
        start_server(HF_ENDPOINT=hub.endpoint, HF_HOME=str(fault_folder / "huggingface"), PYTHONWARNINGS="ignore", no_proxy="*")
        yield hub


@pytest.fixture(scope="session")
def undisturbed(fault_folder: Path, troubled_hub: Hub) -> Undisturbed:
    """A finished home. Each case happens to a copy of it in the place where it was: some tables hold paths."""
    root, study = fault_folder / "home", write_study(fault_folder)
    seen = Place(study, root, troubled_hub, random.Random(0), 0).run()
    assert (seen.code, seen.sentences) == (0, ""), seen
    computed, held = contents(root), files(root)
    kept = root.rename(fault_folder / "undisturbed")
    return Undisturbed(study, root, kept, computed, held)
