"""Errors that a user can act on. Every message says where, what was found, what was expected."""

import importlib.util


class LumosError(Exception):
    """Base of all errors that LUMOS raises on purpose; the CLI prints them without a traceback."""


class DataError(LumosError):
    """An input file is missing, malformed or inconsistent."""


class NewerFileError(DataError):
    """A file was written by a newer LUMOS than this one; the file itself is not damaged."""


class ConfigError(LumosError):
    """A configuration key is unknown, of the wrong type, or contradicts another."""


class ModelError(LumosError):
    """A model (SASRec checkpoint or local LLM) cannot be loaded or does not fit the catalog."""


class ArtefactError(ModelError):
    """A catalog artefact is damaged, is not the one that was agreed, or does not say what the
    language model says."""


class ReplyError(LumosError):
    """A node's reply is not what was asked for, and must not change the model."""


class RefusalError(ReplyError):
    """A node refuses a step of secure aggregation, because the step would not protect the node."""


class FederationError(LumosError):
    """A federated run cannot continue (too few nodes, too few valid replies)."""


def reason_of(error: OSError) -> str:
    """Why something failed: the operating system's message or, if a library raised the error
    without one, the error's own text."""
    return error.strerror or str(error) or type(error).__name__


def require_extra(module: str, extra: str, purpose: str) -> None:
    """Check that a package that not everybody installs is there.

    Args:
        module: its importable name.
        extra: the extra of LUMOS that installs it.
        purpose: what needs it; begins the error's text.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec(module) is None:
        raise ConfigError(
            f"{purpose} needs the package {module!r}, which is not installed; run: "
            f"pip install 'lumos[{extra}]'"
        )
