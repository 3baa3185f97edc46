"""The SAEs of a study that are matched: loaded when first asked for, and kept as long as the memory set aside for them lasts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from scipy.sparse import csr_array
from torch import Tensor

from sae_pipeline.activations.shards import ActivationShards
from sae_pipeline.matching.correlation import latent_code
from sae_pipeline.matching.pairs import DeclaredSae
from sae_pipeline.matching.weights.directions import Prepared, prepare
from sae_pipeline.saes.inference import InferenceSAE

KEPT_BYTES = 2**32
"""Memory for SAEs and their directions; two are kept in any case."""


@dataclass(frozen=True)
class MatchableSae:
    """A trained SAE and what is known of its latents."""

    declared: DeclaredSae
    load: Callable[[], InferenceSAE]
    """Reads its weights, on the device that it is matched on."""
    latents: pd.DataFrame
    """A row per latent, in order: ``fired``, ``density`` and ``mean_active`` on the evaluation set that decides which are alive."""

    @property
    def alive(self) -> Tensor:
        """(d_sae,) bool, the latents that fired."""
        return torch.from_numpy(self.latents["fired"].to_numpy() > 0)


def first_tokens(shards: ActivationShards, tokens: int) -> Tensor:
    """Activations (n_tokens, d_model) float32 of the first tokens that are not special; fewer where there are fewer."""
    rows = shards.usable[:tokens]
    return shards.read(0, int(rows[-1]) + 1)[rows] if len(rows) else torch.empty(0, shards.d_model)


class Shelf:
    """SAEs with their directions by name; those not asked for longest make room."""

    def __init__(self, saes: Mapping[str, MatchableSae], activations: Tensor | None = None) -> None:
        """SAEs by name, and the activations (n_tokens, d_model) that their latents are read on, where that is asked for."""
        self._saes = saes
        self._activations = activations
        self._codes: dict[str, csr_array] = {}
        self._kept: OrderedDict[str, tuple[InferenceSAE, Prepared]] = OrderedDict()

    @property
    def d_model(self) -> int:
        """Of all SAEs, at least one, which are of one hook point."""
        return self.prepared(next(iter(self._saes))).features.shape[1]

    def prepared(self, sae_id: str) -> Prepared:
        """The unit directions, and which latents are alive."""
        return self._taken(sae_id)[1]

    def alive_directions(self, sae_id: str) -> Tensor:
        """(n_alive, d_model) unit decoder rows of the alive latents."""
        prepared = self.prepared(sae_id)
        return prepared.features if prepared.alive is None else prepared.features[prepared.alive]

    def alive_code(self, sae_id: str) -> csr_array | None:
        """(n_tokens, n_alive) activations of the alive latents; None without activations to read. Kept: it is a few entries a token."""
        if self._activations is None:
            return None
        if sae_id not in self._codes:
            self._codes[sae_id] = latent_code(self._taken(sae_id)[0], self._activations)[:, self._saes[sae_id].alive.nonzero()[:, 0].numpy()]
        return self._codes[sae_id]

    def _taken(self, sae_id: str) -> tuple[InferenceSAE, Prepared]:
        if sae_id not in self._kept:
            while len(self._kept) >= 2 and sum(map(_bytes, self._kept.values())) > KEPT_BYTES:
                self._kept.popitem(last=False)
            sae = self._saes[sae_id].load()
            self._kept[sae_id] = sae, prepare(sae, self._saes[sae_id].alive)
        self._kept.move_to_end(sae_id)
        return self._kept[sae_id]


def _bytes(kept: tuple[InferenceSAE, Prepared]) -> int:
    """Weights and directions, which all have d_sae x d_model elements: two of the SAE, four of its sides and units, one folded."""
    sae, prepared = kept
    return (7 if prepared.folded is not None else 6) * sae.W_dec.numel() * 4
