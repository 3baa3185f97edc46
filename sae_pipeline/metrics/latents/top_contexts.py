"""The tokens on which each latent fires most strongly, so that a number can be followed to the text it came from."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sae_pipeline.corpora.corpus import Corpus
from sae_pipeline.metrics.latents.firing_entries import FiringEntries


class TopContexts:
    """The strongest activations of every latent and where they were: memory for ``count`` of them per latent.

    Of equal activations the earlier in the text is kept, so what is found does not depend on how tokens are chunked.
    """

    def __init__(self, d_sae: int, count: int) -> None:
        self.count = count
        self.activation = torch.zeros(d_sae, count)
        self.place = torch.full((d_sae, count), -1, dtype=torch.int64)

    def update(self, entries: FiringEntries, places: Tensor) -> None:
        """Take in the firings of a chunk whose tokens have the rows ``places`` (n_tokens,) in the set, later than all seen so far."""
        if self.count == 0:
            return
        stronger = (entries.activation > self.activation[entries.latent, -1]).nonzero()[:, 0]
        if len(stronger) == 0:
            return
        latent = entries.latent[stronger]
        known = latent.unique()
        latents = torch.cat([known.repeat_interleave(self.count), latent]).numpy()
        activations = torch.cat([self.activation[known].flatten(), entries.activation[stronger]]).numpy()
        rows = torch.cat([self.place[known].flatten(), places[entries.token[stronger]]]).numpy()
        order = np.lexsort((rows, -activations, latents))
        first = np.searchsorted(latents[order], known.numpy())
        kept = torch.from_numpy(order[first[:, None] + np.arange(self.count)])
        self.activation[known] = torch.from_numpy(activations)[kept]
        self.place[known] = torch.from_numpy(rows)[kept]

    def table(self, corpus: Corpus) -> pd.DataFrame:
        """One row per latent that fired and ``place``, 0 the strongest: ``activation``, and the token's ``context``, ``position`` and ``document``."""
        latent, place = (self.place >= 0).nonzero(as_tuple=True)
        context, position = (part.numpy() for part in _divided(self.place[latent, place], corpus.context_length))
        return pd.DataFrame(
            {
                "latent": latent.numpy(),
                "place": place.numpy(),
                "activation": self.activation[latent, place].double().numpy(),
                "context": context,
                "position": position,
                "document": corpus.document[torch.from_numpy(context), torch.from_numpy(position)].long().numpy(),
            }
        )


def _divided(rows: Tensor, length: int) -> tuple[Tensor, Tensor]:
    return rows // length, rows % length
