"""The one family of exceptions that users are meant to read.

Every message is a single sentence that says what was expected, what was found, where, and what to do.
The command line prints it without a traceback and exits with the class's ``exit_code``.
"""

from __future__ import annotations

from sae_pipeline.safety.text import plain, without_secrets


class SaePipelineError(Exception):
    """Base of every error a user can cause or mend; ``exit_code`` is what the command line returns.

    Messages quote what was found, which may be anybody's text: control characters are written out, and secrets left out.
    """

    exit_code: int = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(plain(without_secrets(str(message))))


class BadInput(SaePipelineError):
    """The study, an argument or the environment asks for something that cannot be done (exit code 2)."""

    exit_code = 2


class StudyError(BadInput):
    """A study file that cannot be used: names the file, the line, the key, what was found and what is allowed."""


class SourceError(BadInput):
    """A text source that cannot be read, is empty, or holds fewer tokens than the study asks for."""


class SubjectError(BadInput):
    """A subject model that cannot be loaded or does not have the layer, site or context length asked for."""


class DeviceError(BadInput):
    """A compute device that does not exist on this machine."""


class StorageError(SaePipelineError):
    """The store cannot be read or written: no space, no permission, or an artifact that is not there yet."""


class SharedStoreError(StorageError):
    """The store that several machines share cannot be reached, refuses, or is not fit to be shared."""


class DamagedArtifact(StorageError):
    """A stored artifact whose bytes differ from its manifest; it was moved to quarantine and must be recomputed."""


class TrainingError(SaePipelineError):
    """A training run that cannot go on (diverged, or a checkpoint that does not fit its configuration)."""


class ExportError(SaePipelineError):
    """An SAE that another library's format does not reproduce; nothing was left behind."""


class HubError(BadInput):
    """The Hugging Face hub cannot be reached, or refuses what was asked of it; like a source or a subject that is out of reach, exit code 2."""
