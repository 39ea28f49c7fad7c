"""Words that do not exist: what a model writes whose language broke, fluent as it may look to a measure of loops."""

from collections.abc import Collection

from peft_unlearn.metrics.lexicon import exists
from peft_unlearn.metrics.words import words
from peft_unlearn.util.registry import metric


@metric(needs="text", direction="never_seen")
def nonwords(answer: str, lexicon: Collection[str]) -> float | None:
    """Share of the words of the model's own answer that do not exist; forgotten is as low as the never-seen model's.

    A word exists that stands in one of the sets, or is one token of the tokenizer, or is one of these with an English ending; numbers and single
    characters do. Rare names do not, in a good answer either. None for an answer without words.
    """
    written = words(answer)
    return sum(not exists(word, lexicon) for word in written) / len(written) if written else None
