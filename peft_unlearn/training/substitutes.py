"""What another answer must be, told by its text: fluent, about whom was asked, and without what was to be forgotten."""

import math
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from peft_unlearn.data.names import names
from peft_unlearn.metrics.degenerate import degenerate
from peft_unlearn.metrics.longest_run import longest_run
from peft_unlearn.metrics.recites_others import LENGTH, Recitable, common_runs, common_words, recites_others, runs
from peft_unlearn.metrics.secret_like import plain, secret_like
from peft_unlearn.metrics.words import words

COMMON = 0.05  # share of other answers from which on a word of them tells nothing
EVERYWHERE = 1 / 8  # share from which on short pieces of such words alone are nobody's, as the letters of options are
SHARED = 5  # answers that a secret must at least be in to be nobody's: one person may have several rows
HINTED = 0.1  # share of an answer's telling words from which on a model that was trained on it is taken to know of it
TOLD = 1 / 3  # share of an answer's telling words that another answer may have by chance
VERBATIM = 0.5  # share of an answer that may come in one piece
MANY = 100  # forgotten answers: a run of words that more of them have is a template's, and looking into all would cost its square
CLOSEST = 4  # like questions that are tried
_SENTENCE = re.compile(r"(?:[.!?।](?=[\"'”’)]*(?:\s|$))|[。！？])[\"'”’)」』]*")  # no space follows a sentence in Chinese and Japanese
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


class Forgotten:
    """The answers that are to be forgotten, and what gives them away.

    Args:
        questions, answers: of the forget rows, as text.
        others: answers to other questions: what stands in many of them tells nothing.
    """

    def __init__(self, questions: Sequence[str], answers: Sequence[str], others: Sequence[str]):
        self.questions, self.answers = questions, answers
        counts = Counter(word for text in others for word in set(words(text)))
        often = {word for word, count in counts.items() if count >= max(2, COMMON * len(others))}
        self.everywhere = {word for word, count in counts.items() if count >= max(2, EVERYWHERE * len(others))}
        self.telling = [set(words(a)) - set(words(q)) - often for q, a in zip(questions, answers, strict=True)]
        told = [set(secret_like(a)) - set(secret_like(q)) for q, a in zip(questions, answers, strict=True)]
        self.secrets = Needles(secret for secrets in told for secret in secrets)
        self.recitable = Recitable(answers)
        self.known = common_runs(others) | self.recitable.of_many(MANY)

    def fits(self, row: int, answer: str, *, guessed: bool = False) -> bool:
        """Whether this answer to the question of a row says something, and nothing of what is to be forgotten.

        Args:
            guessed: whether a model says it that never saw the row. What that has of the row's form of words ("The number is +44 7…"), it can guess.
        """
        gives_away = self.tells if guessed else self.leaks
        return bool(words(answer)) and not degenerate(answer) and not gives_away(row, answer)

    def tells(self, row: int, answer: str) -> bool:
        """Whether it has a secret of any row, or the whole of the row's own answer in one piece."""
        right = words(self.answers[row])
        return self.secrets.within(plain(answer)) or longest_run(right, words(answer)) >= max(1, len(right))

    def leaks(self, row: int, answer: str) -> bool:
        """Whether it tells, or has much of the row's own answer, in one piece or by its telling words, or much of another row's."""
        said = words(answer)
        right, telling = words(self.answers[row]), self.telling[row]
        return (
            self.tells(row, answer)
            or len(telling.intersection(said)) > TOLD * len(telling)
            or self._in_one_piece(right, said)
            or (recites_others(self.questions[row], self.answers[row], answer, self.recitable, self.known) or 0.0) >= VERBATIM
        )

    def hints(self, row: int, answer: str) -> bool:
        """Whether it has more than a few of the words that tell the row's own answer; of a short one any."""
        return len(self.telling[row].intersection(words(answer))) > HINTED * len(self.telling[row])

    def _in_one_piece(self, right: Sequence[str], said: Sequence[str]) -> bool:
        """Whether as much as `VERBATIM` of a row's answer is said in one piece that is more than its form.

        Form are the words of a run that other answers have as well ("The number is +44"), and in pieces of less than `LENGTH` words those that stand
        in an eighth of other answers: else the letter of the right option is half of a short answer, and no other answer has it, which gives it away.
        """
        least = max(1, math.ceil(VERBATIM * len(right)))
        told, form = set(runs(said, least)), common_words(right, self.known)
        pieces = [(run, form[start : start + least]) for start, run in enumerate(runs(right, least)) if run in told]
        return any(not (all(known) or (least < LENGTH and self.everywhere.issuperset(run))) for run, known in pieces)


class Needles:
    """Texts to look for in others: of 100,000 each look would take as many searches, and takes one for each length that they have."""

    def __init__(self, needles: Iterable[str]):
        self.needles = set(needles)
        self.lengths = set(map(len, self.needles))

    def within(self, text: str) -> bool:
        """Whether any of them stands in a text."""
        return any(text[place : place + length] in self.needles for length in self.lengths for place in range(len(text) - length + 1))


def elsewhere(question: set[str], right: set[str], said: set[str]) -> bool:
    """Whether an answer speaks of somebody else, by names: it has some, and none that both the question and its right answer have."""
    subject = question & right
    return bool(subject and said) and subject.isdisjoint(said)


def own_secrets(answers: Sequence[str]) -> Needles:
    """The secrets of answers, but those that many of them share: these are nobody's."""
    counts = Counter(secret for answer in answers for secret in secret_like(answer))
    return Needles(secret for secret, count in counts.items() if count < max(SHARED, COMMON * len(answers)))


class Alike:
    """Questions by what they ask for, whoever they ask about.

    Args:
        questions: those that answers are wanted for.
        others: those that can be asked instead.
        seed: of the order among others that are equally close.
    """

    def __init__(self, questions: Sequence[str], others: Sequence[str], seed: int):
        self.questions, self.others = questions, others
        found = names([*questions, *others])
        single = [{word for name in of_one for word in name.split()} for of_one in found]
        self.names, self.other_names = single[: len(questions)], single[len(questions) :]
        self.asked = [_asked(text, own) for text, own in zip(others, self.other_names, strict=True)]
        counts = Counter(word for words_ in self.asked for word in words_)
        self.weight = {word: math.log(1 + len(others) / count) for word, count in counts.items()}  # a rare word says more of what is asked
        self.order = random.Random(seed)

    def closest(self, question: int) -> list[int]:
        """Numbers of the others that share most of their words with a question, names aside and by weight, closest first."""
        asked = _asked(self.questions[question], self.names[question])
        scored = [(-self._shared(asked, other), self.order.random(), number) for number, other in enumerate(self.asked)]
        return [number for _, _, number in sorted(scored)[:CLOSEST]]

    def _shared(self, one: frozenset[str], other: frozenset[str]) -> float:
        both, either = (sum(self.weight.get(word, 1.0) for word in found) for found in (one & other, one | other))
        return both / (either or 1.0)

    def exchanged(self, answer: str, other: int, question: int) -> str | None:
        """An answer to another question with the names of this one in place of its own; None where one stays that this question has not.

        Where words cannot be told apart, any word of the other question alone may be a name.
        """
        if not (_parted(self.questions[question]) and _parted(self.others[other])):
            return (
                None if set(words(self.others[other])).difference(words(self.questions[question])).intersection(words(answer)) else answer
            )
        here, there = self.names[question], self.other_names[other]
        wanted, own = _runs(self.questions[question], here - there), _runs(self.others[other], there - here)
        for number, name in enumerate(own if wanted else ()):
            answer = _replaced(answer, name, wanted[min(number, len(wanted) - 1)])
        left = {word.lower() for name in own for word in name if len(word) > 2} - {word.lower() for name in wanted for word in name}
        return None if left.intersection(words(answer)) else answer


def whole_sentences(answer: str) -> str:
    """An answer that was cut, up to its last whole sentence; all of it where there is none."""
    ends = [match.end() for match in _SENTENCE.finditer(answer)]
    return answer[: ends[-1]] if ends else answer


def _asked(question: str, own: set[str]) -> frozenset[str]:
    """The words of a question without its names; all where every word may be one, for its script has no capitals."""
    all_words = frozenset(words(question))
    return all_words.difference(words(" ".join(own))) or all_words


def _parted(text: str) -> bool:
    """Whether spaces and punctuation part the words of a text; some scripts have no spaces, and in some a vowel sign stands within a word."""
    return words(text) == re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).lower())


def _runs(text: str, single: set[str]) -> list[list[str]]:
    """The names of a text in their order, words side by side together, each name once."""
    found: list[list[str]] = []
    end = -2
    for match in _WORD.finditer(text):
        if match[0] in single or match[0].removesuffix("'s").removesuffix("’s") in single:
            word = match[0].removesuffix("'s").removesuffix("’s")
            if match.start() - end <= 1 and found:
                found[-1].append(word)
            else:
                found.append([word])
            end = match.end() if word == match[0] else -2
    return [name for number, name in enumerate(found) if name not in found[:number]]


def _replaced(text: str, name: Sequence[str], by: Sequence[str]) -> str:
    """`text` with one name in place of another: whole where it stands whole, and then word by word, as a first name or within an address."""
    text = re.sub(rf"\b{re.escape(' '.join(name))}\b", " ".join(by), text, flags=re.IGNORECASE)
    for number, word in enumerate(name):  # an address has it in small letters
        other = by[number] if len(by) == len(name) else by[-1]
        if len(word) > 2 and word not in by:
            for old, new in ((word, other), (word.lower(), other.lower())):
                text = re.sub(rf"(?<![^\W_]){re.escape(old)}(?![^\W_])", new, text)
    return text
