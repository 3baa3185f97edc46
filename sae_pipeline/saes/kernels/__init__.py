"""The primitives of a sparse training step: encode and select, decode, sampled products, sums by latent, Adam.

Every primitive has a plain-torch implementation that works on every device and dtype; float32 on the CPU goes through
compiled row kernels where Numba is installed, and CUDA through Triton's where that is. ``choice`` says which runs.
"""

from sae_pipeline.saes.kernels.adam import UnitRowAdam
from sae_pipeline.saes.kernels.code import SparseCode, row_starts, tokens_of
from sae_pipeline.saes.kernels.encoding import encode_above, encode_topk
from sae_pipeline.saes.kernels.sums import ByLatent, decode, reconstruction_error, sampled_product
from sae_pipeline.saes.kernels.team import chunks_of, shared
from sae_pipeline.saes.kernels.workspace import Workspace

__all__ = [
    "ByLatent",
    "SparseCode",
    "UnitRowAdam",
    "Workspace",
    "chunks_of",
    "decode",
    "encode_above",
    "encode_topk",
    "reconstruction_error",
    "row_starts",
    "sampled_product",
    "shared",
    "tokens_of",
]
