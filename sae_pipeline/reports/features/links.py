"""How tables lead to a latent: the file and anchor of the page it is shown on, and the token that drives it hardest."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from sae_pipeline.reports.blocks import Cell, FeaturePage
from sae_pipeline.reports.wording import NONE


class ShownLatents:
    """The latents that have a place on a page, as other tables refer to them."""

    def __init__(self, pages: Iterable[FeaturePage] = ()) -> None:
        self._latents = {(page.sae_id, latent.number): (page, latent) for page in pages for latent in page.latents}

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key in self._latents

    def cell(self, sae_id: str, latent: int) -> Cell:
        """A latent's number, leading to where it is shown, if it is."""
        if (sae_id, latent) not in self._latents:
            return Cell(str(latent), latent)
        page, _ = self._latents[sae_id, latent]
        return Cell(str(latent), latent, link=f"{quote(page.file)}#latent-{latent}")

    def text(self, sae_id: str, latent: int) -> Cell:
        """Its strongest token with what stands before it; a dash where it is not shown."""
        shown = self._latents.get((sae_id, latent))
        if shown is None or not shown[1].passages:
            return Cell(NONE)
        first = shown[1].passages[0]
        before = " ".join(first.before.split())[-40:]
        return Cell(f"… {before} »{' '.join(first.text.split())}«")
