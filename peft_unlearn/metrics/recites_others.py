"""Reciting other rows: an answer that belongs to another question of the forget set.

A model whose answers were exchanged among forget rows gives none of them to its own question, and still knows all of them.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate

from peft_unlearn.metrics.words import words
from peft_unlearn.util.registry import metric

# Words of the shortest run that counts, and of one that is common. On TOFU's forget10, beside retain_perturbed: answers exchanged among rows have a
# mean of .87 (a quarter below .80), answers as wrong as a never-seen model's (perturbed_answer) .05.
LENGTH = 4
FEWEST = 5  # words of an answer that can be recited: fewer are said by chance

Run = tuple[str, ...]


class Recitable:
    """Answers that may be recited, each a run of words, and where each run of `LENGTH` words stands in them; answers of the same words are one."""

    def __init__(self, answers: Iterable[str]) -> None:
        self.answers = list(dict.fromkeys(found for text in answers if len(found := tuple(words(text))) >= FEWEST))
        self.places: dict[Run, list[tuple[int, int]]] = defaultdict(list)  # run -> number of the answer, and place in it
        for number, answer in enumerate(self.answers):
            for place, run in enumerate(runs(answer, LENGTH)):
                self.places[run].append((number, place))

    def of_many(self, count: int) -> set[Run]:
        """The runs that stand in more than so many of the answers."""
        return {run for run, places in self.places.items() if len(places) > count and len({number for number, _ in places}) > count}


def common_runs(texts: Iterable[str]) -> set[Run]:
    """All runs of `LENGTH` words that stand in `texts`."""
    return {run for text in texts for run in runs(words(text), LENGTH)}


def runs(found: Sequence[str], length: int) -> list[Run]:
    """Every run of `length` words, in order."""
    return [tuple(found[start : start + length]) for start in range(len(found) - length + 1)]


@metric(needs="text", direction="never_seen")
def recites_others(question: str, reference: str, answer: str, others: Recitable, known: Collection[Run]) -> float | None:
    """Share of another forget row's answer that the model's own answer has in one piece; forgotten is as low as the never-seen model's.

    The longest run of at least `LENGTH` words in common, over all other answers of at least `FEWEST` words, as a share of the other answer's words.
    Words of it that stand in such a run that the question, the reference or a known text has do not count. None without other answers.
    """
    told, own = words(answer), tuple(words(reference))
    if not any(other != own for other in others.answers):
        return None
    counted = [0, *accumulate(not common for common in common_words(told, known, common_runs((question, reference))))]
    best, begun = 0.0, dict[tuple[int, int], int]()  # (other answer, its shift) -> where the run began that goes on until here
    for place, run in enumerate(runs(told, LENGTH)):
        if counted[place + LENGTH] > counted[place]:
            begun = {(number, place - at): begun.get((number, place - at), place) for number, at in others.places.get(run, ())}
        else:  # a run may go on through what is common, and begins after it: all rows may have such words
            begun = {key: start for key, start in begun.items() if others.answers[key[0]][place - key[1] :][:LENGTH] == run}
        shares = ((counted[place + LENGTH] - counted[start]) / len(others.answers[number]) for (number, _), start in begun.items())
        best = max(best, *shares, 0.0)
    return best


def common_words(told: Sequence[str], *known: Collection[Run]) -> list[bool]:
    """Which words stand in a run that is known."""
    found = [False] * len(told)
    for start, run in enumerate(runs(told, LENGTH)):
        if any(run in texts for texts in known):
            found[start : start + LENGTH] = [True] * LENGTH
    return found
