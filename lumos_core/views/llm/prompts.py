"""All texts of the prompts to the language model. Whoever changes one must raise ``VERSION``.

List prompts in the domain's own words beat chat templates for small models. Prompts are put
together from pieces that are tokenised one by one, so that a title has the same tokens everywhere.
"""

VERSION = "2"

BREAK = "\n"
"""Stands before every title of a list that the model only reads; titles themselves begin with a
space. A hyphen before it would cost every title of a history one more token."""

BULLET = "\n-"
"""Stands before every title of a list that the model goes on with itself."""

DEFAULT_NOUN = "products bought by a customer"


def list_head(noun: str) -> str:
    """Opens a history: ``Products bought by a customer, in order:``."""
    return f"{_sentence(noun)}, in order:"


def title_piece(title: str) -> str:
    """A title as it stands in a line; one all in capitals is put in lower case, since models
    have read few such texts."""
    return f" {title.lower() if title.isupper() else title}"


EMBED_BEFORE = "This product:"
EMBED_AFTER = "\nin one word is:"
"""Around a title whose meaning is read from the states of its own tokens and of the last token."""


def _sentence(noun: str) -> str:
    noun = noun.strip() or DEFAULT_NOUN
    return noun[0].upper() + noun[1:]


# --------------------------------------------------------- where the model writes titles itself
DECODING_VERSION = "2"

FUTURE, PARAPHRASE, COUNTERFACTUAL = "future", "paraphrase", "counterfactual"

CONTINUATIONS = {
    FUTURE: "",
    PARAPHRASE: "\n\nOthers that would have done as well, in the same order:",
    COUNTERFACTUAL: "\n\nOf no interest to the same person:",
}
"""Between the history and the bullet of the first new title, for models that continue texts."""

QUESTIONS = {
    FUTURE: "Which {count} come next? Name titles that are not in the list yet.",
    PARAPHRASE: "Rewrite the list: replace each of the {count} titles by a different one that "
    "meets the same wish, in the same order.",
    COUNTERFACTUAL: "Name {count} titles that contradict this taste: what the same person would "
    "not choose.",
}
_ANSWER = "Answer with a list of titles, one a line, each behind a hyphen, and nothing else."


def chat_question(noun: str, titles: list[str], view: str, count: int) -> str:
    """What a chat model is asked.

    Args:
        noun: what a history is.
        titles: of the history, in order.
        view: FUTURE, PARAPHRASE or COUNTERFACTUAL.
        count: titles that are wanted.
    """
    history = "".join(f"{BULLET} {title.strip()}" for title in titles)
    question = QUESTIONS[view].format(count=count)
    return f"{list_head(noun)}{history}\n\n{question} {_ANSWER}"
