"""Encoding and selection in one pass, so that the dense (n_tokens, d_sae) pre-activations never exist.

Wide float32 rows are encoded twice. A bfloat16 product, several times faster, says which latents might be chosen; those
few are then computed again in float32, and the choice is made among these exact values. ``bounds`` proves for every
latent that is dropped that float32 would have dropped it too, so the result is that of float32 up to the order of its
sums: exact ties apart, the same latents.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sae_pipeline.saes.chunks import CHUNK
from sae_pipeline.saes.kernels.bounds import ErrorModel, Rounded, error_model, rounded, row_bounds
from sae_pipeline.saes.kernels.choice import numba_for, preselects
from sae_pipeline.saes.kernels.code import SparseCode, row_starts
from sae_pipeline.saes.kernels.sums import sampled_product
from sae_pipeline.saes.kernels.team import chunks_of, shared
from sae_pipeline.saes.kernels.workspace import Pages, Workspace

GROUP = 16
"""Pre-activations of which plain torch first takes the maximum: k groups that reach a number hold k latents that do."""


def encode_topk(rows: Tensor, W_enc: Tensor, b_enc: Tensor, k: int, workspace: Workspace) -> SparseCode:
    """The k largest pre-activations rows @ W_enc + b_enc of every row; negative ones among them become entries of value 0.

    The code's tensors may be buffers of the workspace, valid until the next encoding.

    Args:
        rows: (n_tokens, d_model), contiguous.
        W_enc: (d_model, d_sae), the transposed view of a contiguous matrix.
        b_enc: (d_sae,).
        k: at most d_sae.
    """
    n = len(rows)
    values = workspace.get("values", rows, n, k)
    latents = workspace.get("latents", rows, n, k, dtype=torch.int64)
    if preselects(rows):
        w, x = rounded("weights", W_enc.t(), workspace), rounded("rows", rows, workspace)
        model = error_model(w, b_enc)

        def choose(member: int, first: int, last: int) -> None:
            for part, near, pre in _approximate(member, first, last, x, w, b_enc, workspace):
                if compiled := numba_for(rows):
                    compiled.select_topk(pre, near, w, b_enc, model, k, latents[part], values[part])
                else:
                    _select_topk(pre, near, w, b_enc, model, k, latents[part], values[part])

        shared(choose, n, CHUNK)
    else:

        def rank(member: int, first: int, last: int) -> None:
            for part, pre in _exactly(member, first, last, rows, W_enc, b_enc, workspace):
                torch.topk(pre, k, dim=1, sorted=False, out=(values[part], latents[part]))

        shared(rank, n, CHUNK)
        values.relu_()
    starts = torch.arange(0, n * k + 1, k, device=rows.device)
    return SparseCode(starts, latents.view(-1), values.view(-1))


def encode_above(rows: Tensor, W_enc: Tensor, b_enc: Tensor, threshold: Tensor | float, workspace: Workspace) -> SparseCode:
    """All entries whose pre-activation rows @ W_enc + b_enc exceeds ``threshold`` (one number or (d_sae,)), with it as value.

    Shapes as in :func:`encode_topk`; entries by ascending latent. The memory is that of the entries found.
    """
    n, d_sae = len(rows), W_enc.shape[1]
    counts = workspace.get("counts", rows, n, dtype=torch.int64)
    if preselects(rows):
        w, x = rounded("weights", W_enc.t(), workspace), rounded("rows", rows, workspace)
        thresholds = torch.as_tensor(threshold, dtype=rows.dtype, device=rows.device).expand(d_sae).contiguous()
        # With the threshold taken off the bias every latent is compared to zero, where bfloat16 stores most precisely.
        shifted = b_enc - thresholds
        model = error_model(w, shifted)

        def choose(member: int, first: int, last: int) -> list[tuple[Tensor, Tensor]]:
            pieces: list[tuple[Tensor, Tensor]] = []
            pages = Pages(workspace, str(member), rows)
            for part, near, pre in _approximate(member, first, last, x, w, shifted, workspace):
                if compiled := numba_for(rows):
                    pieces += compiled.select_above(pre, near, w, b_enc, thresholds, model, pages, counts[part])
                else:
                    pieces.append(_select_above(pre, near, w, b_enc, thresholds, model, counts[part]))
            return pieces

        found = shared(choose, n, CHUNK)
    else:

        def compare(member: int, first: int, last: int) -> list[tuple[Tensor, Tensor]]:
            pieces = []
            for part, pre in _exactly(member, first, last, rows, W_enc, b_enc, workspace):
                above = ~(pre <= threshold)  # not >, so that NaN stays and the loss says so
                counts[part] = above.sum(1)
                places = above.view(-1).nonzero().view(-1)
                pieces.append((places % d_sae, pre.view(-1)[places]))
            return pieces

        found = shared(compare, n, CHUNK)
    pieces = [piece for stretch in found for piece in stretch]
    return SparseCode(row_starts(counts), torch.cat([latents for latents, _ in pieces]), torch.cat([values for _, values in pieces]))


def _exactly(member: int, first: int, last: int, rows: Tensor, W_enc: Tensor, bias: Tensor, workspace: Workspace) -> Iterator[tuple[slice, Tensor]]:
    """Pieces of a stretch with their pre-activations (rows, d_sae), which the next piece overwrites."""
    for part in chunks_of(first, last, rows.device):
        pre = workspace.get(f"pre {member}", rows, len(rows[part]), W_enc.shape[1])
        yield part, torch.addmm(bias, rows[part], W_enc, out=pre)


def _approximate(
    member: int, first: int, last: int, rows: Rounded, w: Rounded, bias: Tensor, workspace: Workspace
) -> Iterator[tuple[slice, Rounded, Tensor]]:
    """The same with approximate pre-activations."""
    low_bias = bias.to(torch.bfloat16)
    for part in chunks_of(first, last, bias.device):
        x = Rounded(*(tensor[part] for tensor in rows))
        if bias.device.type == "cuda":
            # A bfloat16 result may have been summed in bfloat16 there, for which the bound does not hold.
            yield part, x, torch.mm(x.low, w.low.t(), out_dtype=torch.float32).add_(bias)
        else:
            pre = workspace.get(f"pre {member}", bias, len(x.low), len(w.low), dtype=torch.bfloat16)
            yield part, x, torch.addmm(low_bias, x.low, w.low.t(), out=pre)


def _select_topk(pre: Tensor, x: Rounded, w: Rounded, bias: Tensor, model: ErrorModel, k: int, latents: Tensor, values: Tensor) -> None:
    """Exact top-k from approximate values, as ``numba_rows.select_topk`` does it but with one bound for all latents of a row."""
    n, d_sae = pre.shape
    size = max(1, min(GROUP, d_sae // (2 * k)))
    # Strided groups, so that the maximum is one vector operation per group member.
    maxima = pre[:, : d_sae // size * size].unflatten(1, (size, -1)).amax(1)
    reached = maxima.topk(k, dim=1, sorted=False).values.amin(1).float()
    # At least k exact values reach this less its error, so an entry that stays below that with its own error is out.
    reach = reached - reached.abs() * model.stored - 2 * row_bounds(x, model)
    least = reach - 2 * reach.abs() * model.stored
    candidates, starts = _places(~(pre < least.unsqueeze(1)))  # not >=, so that NaN stays and the loss says so
    exact = _exact(x, w, bias, starts, candidates)
    counts = starts.diff()
    most = int(counts.max())
    inside = torch.arange(most, device=pre.device) < counts.unsqueeze(1)
    padded = torch.full((n, most), -torch.inf, device=pre.device).masked_scatter_(inside, exact)
    best = padded.topk(k, dim=1, sorted=False)
    values.copy_(best.values.relu_())
    latents.copy_(candidates[best.indices.add_(starts[:-1].unsqueeze(1))])


def _select_above(pre: Tensor, x: Rounded, w: Rounded, bias: Tensor, threshold: Tensor, model: ErrorModel, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Exact entries above the threshold from approximate differences to it; see :func:`numba_rows.select_above`."""
    possible = ~(pre < (row_bounds(x, model) * -(1 + 2 * model.stored)).unsqueeze(1))
    candidates, starts = _places(possible)
    exact = _exact(x, w, bias, starts, candidates)
    kept = ~(exact <= threshold[candidates])
    torch.diff(row_starts(kept)[starts], out=counts)
    return candidates[kept], exact[kept]


def _places(possible: Tensor) -> tuple[Tensor, Tensor]:
    """Columns of the true entries, row after row, and where every row's begin."""
    return possible.view(-1).nonzero().view(-1).remainder_(possible.shape[1]), row_starts(possible.sum(1))


def _exact(x: Rounded, w: Rounded, bias: Tensor, starts: Tensor, latents: Tensor) -> Tensor:
    """Float32 pre-activations at the entries of compressed sparse rows."""
    return sampled_product(x.exact, w.exact, SparseCode(starts, latents, torch.empty_like(latents, dtype=bias.dtype))).add_(bias[latents])
