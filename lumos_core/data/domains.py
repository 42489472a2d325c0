"""What the items of a data set are, and how a prompt speaks of a history of them."""

from collections.abc import Mapping
from typing import Literal, get_args

Domain = Literal["products", "films", "games", "news", "books", "music", "places"]

DOMAINS: tuple[Domain, ...] = get_args(Domain)

NOUNS: Mapping[Domain, str] = {
    "products": "products bought by a customer",
    "films": "films watched by a viewer",
    "games": "games played by a player",
    "news": "news articles read by a reader",
    "books": "books read by a reader",
    "music": "songs played by a listener",
    "places": "places visited by a guest",
}
"""The key ``llm-noun`` of a run, by domain; other texts can be given as that key."""
