"""Any stage can be the first that a program imports."""

from __future__ import annotations

import subprocess
import sys

FIRST_IN_TURN = """
import importlib, pkgutil, sys
import sae_pipeline.stages

names = [f"sae_pipeline.stages.{module.name}" for module in pkgutil.iter_modules(sae_pipeline.stages.__path__)]
for name in names:
    for loaded in [loaded for loaded in sys.modules if loaded.startswith("sae_pipeline.stages.")]:
        del sys.modules[loaded]
        delattr(sae_pipeline.stages, loaded.rpartition(".")[2])
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(name, error)
print(len(names), "tried")
"""


def test_every_stage_can_be_imported_first() -> None:
    result = subprocess.run([sys.executable, "-c", FIRST_IN_TURN], capture_output=True, text=True, check=True)
    *failed, tried = result.stdout.splitlines()
    assert failed == []
    assert int(tried.split()[0]) > 40
