"""The nodes of a run, chosen by name, pattern or tag: the run's key ``nodes``.

A tag is a public word that a node's owner writes into ``node.toml`` (``tags = ["eu", "large"]``),
as agreed with whoever runs the server. The node tells its tags when it describes itself. A tag is
claimed and proves nothing: it says who is asked, not who may take part.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pydantic_core import PydanticCustomError

MOST_TAGS = 8
_TAG = re.compile(r"[a-z0-9][a-z0-9._-]{0,23}")
_PATTERN = re.compile(r"[A-Za-z0-9._*?-]{1,64}")
_TAGGED = "tag:"


def joined_tags(value: object) -> object:
    """A list of tags, or a text with commas between them, as such a text; sorted, each once.

    Raises:
        PydanticCustomError: one is no tag, or there are too many.
    """
    found = [text for text in value.split(",") if value] if isinstance(value, str) else value
    if not isinstance(found, list | tuple):
        raise _wrong_tags()
    tags = sorted({text.strip() if isinstance(text, str) else "" for text in found})
    if len(tags) > MOST_TAGS or not all(_TAG.fullmatch(tag) for tag in tags):
        raise _wrong_tags()
    return ",".join(tags)


def claimed_tags(text: str) -> tuple[str, ...]:
    """The tags that a node claims; none of them if they are not as a node would write them."""
    try:
        checked = joined_tags(text)
    except PydanticCustomError:
        return ()
    return tuple(checked.split(",")) if isinstance(checked, str) and checked else ()


@dataclass(frozen=True)
class NodeChoice:
    """Alternatives, any of which is enough for a node to take part; all nodes without any.

    >>> choice = NodeChoice.of("shop-*, tag:eu")
    >>> choice.takes("shop-7", ()), choice.takes("hub", ("eu",)), choice.takes("hub", ("us",))
    (True, True, False)
    """

    patterns: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str) -> "NodeChoice":
        """The choice that a text describes.

        Raises:
            ValueError: an alternative is neither a name or pattern nor a tag.
        """
        parts = [part.strip() for part in text.split(",")] if text.strip() else []
        tags = [part.removeprefix(_TAGGED) for part in parts if part.startswith(_TAGGED)]
        patterns = [part for part in parts if not part.startswith(_TAGGED)]
        for part, form in [*((t, _TAG) for t in tags), *((p, _PATTERN) for p in patterns)]:
            if not form.fullmatch(part):
                raise ValueError(
                    f"nodes = {text!r}: {part!r} is neither a node's name or a pattern of names "
                    "(shop-*, north-?) nor a tag (tag:eu), with commas between several"
                )
        return cls(tuple(patterns), tuple(tags))

    def takes(self, name: str, tags: Iterable[str]) -> bool:
        """Whether a node with this name and these tags takes part."""
        if not self.patterns and not self.tags:
            return True
        named = any(fnmatchcase(name, pattern) for pattern in self.patterns)
        return named or not set(self.tags).isdisjoint(tags)


def _wrong_tags() -> PydanticCustomError:
    return PydanticCustomError(
        "tags",
        f"expected at most {MOST_TAGS} words of a-z, 0-9, '.', '_' and '-', each of 24 characters "
        "or fewer",
    )
