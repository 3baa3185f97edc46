"""Everything that a run imports, see ``fault_runs``: modules of the project import most libraries where they use them."""

from contextlib import suppress
from importlib import import_module
from pkgutil import walk_packages

import assets
import resources
import sae_pipeline

LIBRARIES = (
    "alembic.command",
    "bm25s",
    "dagster._core.storage.noop_compute_log_manager",
    "dagster._core.storage.sqlite_storage",
    "datasets",
    "duckdb",
    "huggingface_hub",
    "matplotlib.pyplot",
    "pandas",
    "pyarrow.parquet",
    "safetensors.torch",
    "scipy.optimize",
    "scipy.stats",
    "tokenizers",
    "torch",
    "transformer_lens.model_bridge",
    "transformers.models.gpt2.modeling_gpt2",
)

OF_A_STUDY = "sae_pipeline.definitions"
"""Opens the study that the environment names, which every run does for itself."""

for library in LIBRARIES:
    import_module(library)
for package in (sae_pipeline, assets, resources):
    for module in walk_packages(package.__path__, f"{package.__name__}."):
        if module.name != OF_A_STUDY:
            with suppress(ImportError):  # of what only some machines have, such as triton
                import_module(module.name)
