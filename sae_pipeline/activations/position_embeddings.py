"""Position embeddings of a subject taken away or mixed up while it reads, to see what in its activations comes from them.

Only models that add a learned vector per absolute position to the token's own have something to take away. Rotary
models turn queries and keys inside every attention layer, and others bias the attention scores: for them the questions
of the position study are not applicable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.errors import SubjectError

Condition = Literal["intact", "zero", "shuffle"]

CONDITIONS: tuple[Condition, ...] = ("intact", "zero", "shuffle")
"""Embeddings as they are; all zero; and each context with the embeddings of its positions in another order."""

RESERVED_ROWS = 2
"""Rows that families such as OPT keep in the table before the first position."""


def position_embedding(model: SubjectModel) -> nn.Embedding | None:
    """The table of learned absolute positions, or None when the model has none.

    Told from the modules alone: an embedding other than the tokens' own that is as wide as the residual stream and has
    a row for every position of the longest context.
    """
    whole, limit = model.bridge.original_model, model.context_limit
    if limit is None:
        return None
    of_tokens = set(whole.get_input_embeddings().modules())
    tables = [module for module in whole.modules() if isinstance(module, nn.Embedding) and module not in of_tokens]
    fitting = [m for m in tables if m.embedding_dim == model.d_model and limit <= m.num_embeddings <= limit + RESERVED_ROWS]
    return fitting[0] if len(fitting) == 1 else None


def why_not_applicable(model: SubjectModel) -> str | None:
    """The reason why positions cannot be taken from this model, as the end of 'not applicable: …'; None when they can."""
    if position_embedding(model) is not None:
        return None
    kind = getattr(model.bridge.cfg, "positional_embedding_type", "standard")
    instead = f"its positions are {kind}" if kind != "standard" else "none of its modules is a table with a row per position"
    return f"the subject has no learned absolute position embeddings ({instead})"


def shuffled_orders(contexts: range, length: int, seed: int) -> Tensor:
    """A permutation of the positions for each context, a function of (seed, number of the context) alone.

    Every context has its own. One permutation for all of them would only rename positions: each would still have an
    embedding to itself, and whatever differs between positions would go on differing.

    Args:
        contexts: numbers of the contexts in the text.
        length: positions of a context.
        seed: which permutations.

    Returns:
        (n_contexts, length) int64; the embedding that position p of a context is given is that of position ``[p]``.
    """
    return torch.from_numpy(np.stack([np.random.default_rng((seed, context)).permutation(length) for context in contexts]))


@contextmanager
def positions_under(model: SubjectModel, condition: Condition, orders: Tensor | None = None) -> Iterator[None]:
    """Let the model read with its position embeddings as the condition says, and give them back afterwards.

    The table itself is never written to: what it returns is replaced. Intact changes nothing, to the bit.

    Args:
        model: a subject with learned absolute positions.
        condition: what becomes of the embeddings.
        orders: (n_contexts, context_length) from :func:`shuffled_orders`, for the contexts that are read; shuffle only.

    Raises:
        SubjectError: the model has no such table, or read without looking anything up in it.
    """
    if condition == "intact":
        yield
        return
    table = position_embedding(model)
    if table is None:
        raise SubjectError(
            f"positions: expected a model with learned absolute positions, found that {why_not_applicable(model)}; choose another subject or remove the section"
        )
    looked_up = 0

    def replace(module: nn.Module, inputs: tuple[Tensor, ...], embeddings: Tensor) -> Tensor:
        nonlocal looked_up
        looked_up += 1
        if condition == "zero":
            return torch.zeros_like(embeddings)
        assert orders is not None
        index = orders.to(embeddings.device)[..., None].expand(-1, -1, embeddings.shape[-1])
        return embeddings.expand(len(orders), -1, -1).gather(1, index)

    handle = table.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
    if not looked_up:
        raise SubjectError(
            f"positions: expected {model.name} to look its positions up in a table, found that its forward pass does not; remove the section"
        )
