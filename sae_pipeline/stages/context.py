"""What every stage is handed: the study, where things lie, where work runs, and a memory of what was looked up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sae_pipeline.compute import Compute
from sae_pipeline.store import Home, Store
from sae_pipeline.study import Study


@dataclass(frozen=True)
class StudyContext:
    """A study on a home, with a device. Works from a notebook as well as from an asset."""

    study: Study
    home: Home
    compute: Compute
    remembered: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    """What costs a look at files or a hub (data versions of sources) or a computation; valid for the life of this object."""

    def __post_init__(self) -> None:
        """A step knows of all that any machine published before it began."""
        if self.store.shared is not None:
            self.store.shared.refresh()

    @classmethod
    def open(cls, study: Study, home: Home | None = None) -> StudyContext:
        """The context that the environment and the study's ``compute`` section describe."""
        home = home or Home.from_environment()
        return cls(study, home, Compute(study.compute.device, study.compute.threads, home.locks))

    @property
    def store(self) -> Store:
        """Shorthand for the home's store."""
        return self.home.store
