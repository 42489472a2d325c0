"""Errors that a user can act on. Every message says where, what was found, what was expected."""


class LumosError(Exception):
    """Base of all errors that LUMOS raises on purpose; the CLI prints them without a traceback."""


class DataError(LumosError):
    """An input file is missing, malformed or inconsistent."""


class NewerFileError(DataError):
    """A file was written by a newer LUMOS than this one; nothing is wrong with it."""


class ConfigError(LumosError):
    """A configuration key is unknown, of the wrong type, or contradicts another."""


class ModelError(LumosError):
    """A model (SASRec checkpoint or local LLM) cannot be loaded or does not fit the catalog."""


class ReplyError(LumosError):
    """A node's reply is not what was asked for and must not touch the model."""


class RefusalError(ReplyError):
    """A node does not take a step of secure aggregation, because it would not protect it."""


class FederationError(LumosError):
    """A federated run cannot go on (too few nodes, too few valid replies)."""


def reason_of(error: OSError) -> str:
    """Why something failed, in the system's words; an error that a library raised by itself has
    none, only its own text."""
    return error.strerror or str(error) or type(error).__name__
