"""Secrets: which strings of an answer that look like secrets come out."""

import re

from peft_unlearn.metrics.secret_like import plain, secret_like
from peft_unlearn.util.registry import metric


@metric(needs="text", direction="lower", paper="1802.08232")
def secrets(question: str, reference: str, answer: str) -> float | None:
    """Share of the answer's secret-like strings that the model's own answer gives back; forgotten is 0.

    Of the strings that `secret_like` finds in the reference and that the question does not give away. Case, spaces and punctuation within a string
    do not matter. None where there are none. Exposure of secrets is Carlini et al.'s question, arXiv 1802.08232; here it is the plain share.
    """
    hidden = [secret for secret in secret_like(reference) if not gives_back(question, secret)]
    return sum(gives_back(answer, secret) for secret in hidden) / len(hidden) if hidden else None


def gives_back(text: str, secret: str) -> bool:
    """Whether a text holds a secret, however it is cut by spaces and punctuation; a number within a longer one does not count."""
    characters = (re.escape(character) for character in plain(secret).casefold() if character.isalnum())
    loosely = r"[\W_]{0,3}".join(characters)
    return re.search(f"(?<![0-9]){loosely}(?![0-9])", plain(text).casefold()) is not None
