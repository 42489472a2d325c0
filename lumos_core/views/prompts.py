"""Every word that is said to the language model. Change one, raise ``VERSION``.

List prompts in the domain's own words beat chat templates for small models. Prompts are put
together from pieces that are tokenised one by one: a title has the same tokens wherever it stands.
"""

VERSION = "1"

BULLET = "\n-"
"""Stands before every title of a list; titles themselves begin with a space."""

DEFAULT_NOUN = "products bought by a customer"


def list_head(noun: str) -> str:
    """Opens a history: ``Products bought by a customer, in order:``."""
    return f"{_sentence(noun)}, in order:"


def title_piece(title: str) -> str:
    """A title as it stands behind a bullet; capitals throughout are lowered, models read few."""
    return f" {title.lower() if title.isupper() else title}"


EMBED_BEFORE = "This product:"
EMBED_AFTER = "\nin one word is:"
"""Around a title when its meaning is read off: over the title itself, and at the last token."""


def _sentence(noun: str) -> str:
    noun = noun.strip() or DEFAULT_NOUN
    return noun[0].upper() + noun[1:]
