"""What every format of another library is here: how its folders are recognised, read, written and computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

if TYPE_CHECKING:
    from sae_pipeline.saes.inference import InferenceSAE


class Format(ABC):
    """The folder layout of one library."""

    name: ClassVar[str]
    """What ``--format`` calls it; also the library's name on the Hugging Face hub."""
    library: ClassVar[str]
    """The library and the version this was checked against."""
    package: ClassVar[str]
    """Requirement that installs it."""
    files: ClassVar[tuple[str, ...]]
    """Files that a folder of this format has."""
    extras: ClassVar[tuple[str, ...]] = ()
    """Files that it may have and that change how it is read."""

    def recognises(self, folder: Path) -> bool:
        """Whether the folder has this format's files."""
        return all((folder / name).exists() for name in self.files)

    @abstractmethod
    def obstacle(self, sae: InferenceSAE) -> str | None:
        """Why the format cannot express this SAE, as part of a sentence; None where it can."""

    def expresses(self, sae: InferenceSAE) -> bool:
        """Whether the format can hold this SAE as the same function."""
        return self.obstacle(sae) is None

    @abstractmethod
    def read(self, folder: Path) -> InferenceSAE:
        """The SAE in a folder, with everything that the library does to activations folded into the weights.

        Raises:
            BadInput: a file cannot be read, or says something that cannot be folded exactly; says what and why.
        """

    @abstractmethod
    def write(self, sae: InferenceSAE, folder: Path) -> None:
        """Write the format's files, float32, into an existing folder; the SAE must be one that it expresses."""

    @abstractmethod
    def outputs(self, folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latents and reconstruction of raw activations as the library computes them, in the dtype of x.

        Follows the library's documented configuration on the files as they lie, and shares no arithmetic with
        :meth:`read`, so that either checks the other.

        Args:
            folder: of this format.
            x: (n_tokens, d_model).

        Returns:
            (n_tokens, d_sae) and (n_tokens, d_model).
        """

    @abstractmethod
    def loading_code(self, place: str) -> str:
        """Python that loads the folder ``place`` with the library, for a model card."""
