"""SAE architectures by the name a study file uses. A new one is a file with one class and a line here."""

from sae_pipeline.saes.architectures.base import Architecture, Workspace
from sae_pipeline.saes.architectures.batchtopk import BatchTopK
from sae_pipeline.saes.architectures.gated import Gated
from sae_pipeline.saes.architectures.jumprelu import JumpReLU
from sae_pipeline.saes.architectures.matryoshka import Matryoshka
from sae_pipeline.saes.architectures.relu import ReLU
from sae_pipeline.saes.architectures.topk import TopK

ARCHITECTURES: dict[str, type[Architecture]] = {
    architecture.name: architecture for architecture in (TopK, BatchTopK, Matryoshka, JumpReLU, Gated, ReLU)
}

__all__ = ["ARCHITECTURES", "Architecture", "Workspace"]
