"""What the items of a data set are, and the words by which a prompt calls a history of them."""

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
"""The value of a run's key ``llm-noun`` for each domain; the key may also have any other text."""
