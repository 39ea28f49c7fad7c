"""Other answers to the forgotten questions, as a model that never saw them would give: what a run teaches in their place.

Pushed down alone, an answer leaves nothing behind that could be said instead: loops and words that do not exist (docs/log.md). A
never-seen model says what to say. Without one, the model itself does: of a row that it does not know, and asked about others, whom it does not
know either.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.data.labels import IGNORE
from peft_unlearn.data.names import names
from peft_unlearn.data.rows import Row, answer_texts, end_length, evenly, has_prompt, special_ids, split, text
from peft_unlearn.data.turns import turn
from peft_unlearn.metrics.secret_like import plain
from peft_unlearn.metrics.words import words
from peft_unlearn.model.generation import MARGIN, generate, sample
from peft_unlearn.training.substitutes import Alike, Forgotten, elsewhere, own_secrets, whole_sentences

DRAWS = 4  # answers drawn where the likeliest one does not fit
ASKED = 256  # rows of a set that may be asked about others
THEMSELVES = 1024  # forget rows that may be asked themselves; the others are asked about others at once
SPACES = 3  # tokens that an answer may have had besides: outer white space, which is gone, or a word that began otherwise

Round = Callable[[list[int]], Sequence[str | None]]  # of the rows that still lack an answer, one for each, or None


def of_never_seen(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, sets: Mapping[str, Dataset], *, seed: int, batch_size: int
) -> list[Row | None]:
    """A never-seen model's own answer to each row of `sets["forget"]`: its likeliest one, or one that is drawn; None where none fits."""
    rows = _asked(tokenizer, sets["forget"])
    fits = partial(_forgotten(tokenizer, sets, rows).fits, guessed=True)
    return _found(tokenizer, rows, _own_rounds(model, tokenizer, rows, seed, batch_size), fits)


def of_model_itself(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, sets: Mapping[str, Dataset], *, seed: int, batch_size: int
) -> list[Row | None]:
    """An answer to each row of `sets["forget"]` by the model as it is before training; None where none fits.

    What it says to the row's own question, where it does not know the row; its answers to the closest questions of the retain set, or else of the
    holdout, names exchanged; and where there are none, what it says to the row's own question when it must not say what it learned. None has a secret
    of the retain set's.
    """
    rows = _asked(tokenizer, sets["forget"])
    forgotten, theirs = _forgotten(tokenizer, sets, rows), own_secrets(answer_texts(tokenizer, _some(sets, "retain")))

    def fits(row: int, answer: str) -> bool:
        return forgotten.fits(row, answer) and not theirs.within(plain(answer))

    return _found(tokenizer, rows, _like_rounds(model, tokenizer, sets, rows, forgotten, seed, batch_size), fits)


def beside(forget: Dataset, found: Sequence[Row | None]) -> Dataset:
    """The forget rows with their other answers as a column `alternate`, null where there is none."""
    return forget.add_column("alternate", list(found))


def _forgotten(tokenizer: PreTrainedTokenizerBase, sets: Mapping[str, Dataset], rows: Sequence[Row]) -> Forgotten:
    """What gives the forget rows away, beside the answers of the other sets."""
    known = [answer for name in ("retain", "holdout") if name in sets for answer in answer_texts(tokenizer, sets[name])]
    return Forgotten(_prompts(tokenizer, rows), answer_texts(tokenizer, rows), known)


def _found(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], rounds: Iterator[Round], fits: Callable[[int, str], bool]
) -> list[Row | None]:
    """For each of the forget rows the first answer of any round that fits, as a row."""
    special = special_ids(tokenizer)
    answers: dict[int, str] = {}
    for ask in rounds:
        still = [row for row in range(len(rows)) if row not in answers]
        if not still:
            break
        for row, answer in zip(still, ask(still), strict=True):
            if answer is not None and fits(row, answer):
                answers[row] = answer
    return [with_answer(tokenizer, special, row, answers[n]) if n in answers else None for n, row in enumerate(rows)]


def _asked(tokenizer: PreTrainedTokenizerBase, rows: Iterable[Row]) -> list[Row]:
    """The rows, texts without a prompt with their first half as one, up to a word: answers are read without the space before them."""
    special = special_ids(tokenizer)
    return [row if has_prompt(row, special) else _from_a_word(tokenizer, row, len(split(row, special)[0])) for row in rows]


def _from_a_word(tokenizer: PreTrainedTokenizerBase, row: Row, half: int) -> Row:
    """A text whose labels begin at the last token up to `half` that begins a word; at `half` where none does, as in scripts without spaces."""

    def written(length: int) -> str:
        return str(tokenizer.decode(row["input_ids"][:length]))

    begins = (place for place in range(half, half // 2, -1) if written(place + 1).removeprefix(written(place))[:1].isspace())
    start = next(begins, half)
    return {"input_ids": list(row["input_ids"]), "labels": [IGNORE] * start + list(row["labels"][start:])}


def _own_rounds(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], seed: int, batch_size: int
) -> Iterator[Round]:
    """What the model says to the questions themselves; to those that it answers right by guessing, nothing else: its targets ask for that answer."""
    guessed: set[int] = set()

    def likeliest(still: list[int]) -> Sequence[str]:
        asked = [rows[row] for row in still]
        found = _whole(tokenizer, asked, generate(model, tokenizer, asked, batch_size=batch_size, progress="other answers"))
        own = zip(still, found, map(words, answer_texts(tokenizer, asked)), strict=True)
        guessed.update(row for row, answer, right in own if right and words(answer)[: len(right)] == right)
        return found

    def drawn(still: list[int], number: int) -> Sequence[str | None]:
        left = [row for row in still if row not in guessed]
        asked = [rows[row] for row in left]
        draws = sample(model, tokenizer, asked, 1, seed=seed + number, batch_size=batch_size, progress="other answers")
        told = dict(zip(left, _whole(tokenizer, asked, [answers[0] for answers in draws]), strict=True))
        return [told.get(row) for row in still]

    yield likeliest
    for number in range(DRAWS):
        yield lambda still, number=number: drawn(still, number)  # type: ignore[misc]


def _like_rounds(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    sets: Mapping[str, Dataset],
    rows: Sequence[Row],
    forgotten: Forgotten,
    seed: int,
    batch_size: int,
) -> Iterator[Round]:
    """What the model says to the questions themselves, then to like questions about others, and last to the questions without what it learned.

    What it says before training is fluent, and asks for nothing to be learned. It is none where it has a word of the row's that tells, for that is
    known, or speaks of somebody else. Of others first those of the retain set, for what the model knows it says in whole sentences (docs/log.md).
    """
    special = special_ids(tokenizer)
    asks = [row for row in range(len(rows)) if has_prompt(rows[row], special)]

    def said(still: list[int], *, otherwise: bool) -> Sequence[str]:
        asked = [rows[row] for row in still]
        answers = generate(model, tokenizer, asked, batch_size=batch_size, otherwise=otherwise, progress="other answers")
        return _whole(tokenizer, asked, answers)

    def already(still: list[int]) -> Sequence[str | None]:
        some = [asks[n] for n in evenly(len(asks), THEMSELVES)]
        answers = said(some, otherwise=False)
        found = names([*forgotten.questions, *forgotten.answers, *answers])
        theirs, own, here = found[: len(rows)], found[len(rows) : 2 * len(rows)], found[2 * len(rows) :]
        fit = {
            row: answer
            for row, answer, single in zip(some, answers, here, strict=True)
            if not (forgotten.hints(row, answer) or elsewhere(theirs[row], own[row], single))
        }
        return [fit.get(row) for row in still]

    if asks:  # a text goes on with what it has in part, word by word
        yield already
    for name in ("retain", "holdout"):
        others = [row for row in _some(sets, name) if has_prompt(row, special)]
        if others and asks:
            alike = Alike(_prompts(tokenizer, rows), _prompts(tokenizer, others), seed)
            yield from _asked_of_others(model, tokenizer, alike, others, set(asks), seed, batch_size)
    yield lambda still: said(still, otherwise=True)


def _asked_of_others(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    alike: Alike,
    others: Sequence[Row],
    asks: set[int],
    seed: int,
    batch_size: int,
) -> Iterator[Round]:
    """The answers to each row's closest questions, the likeliest ones and then drawn ones, with its names."""
    closest: dict[int, list[int]] = {}

    def answered(still: list[int], place: int, draw: int | None) -> Sequence[str | None]:
        for row in asks.intersection(still) - closest.keys():
            closest[row] = alike.closest(row)
        wanted = {row: closest[row][place] for row in still if row in asks and place < len(closest[row])}
        numbers = sorted(set(wanted.values()))
        asked = [others[number] for number in numbers]
        if draw is None:
            said = generate(model, tokenizer, asked, batch_size=batch_size, progress="other answers")
        else:
            said = [a[0] for a in sample(model, tokenizer, asked, 1, seed=seed + draw, batch_size=batch_size, progress="other answers")]
        answers = dict(zip(numbers, _whole(tokenizer, asked, said), strict=True))
        return [alike.exchanged(answers[wanted[row]], wanted[row], row) if row in wanted else None for row in still]

    for draw in (None, *range(DRAWS)):
        for place in range(min(len(others), 4 if draw is None else 1)):
            yield lambda still, place=place, draw=draw: answered(still, place, draw)  # type: ignore[misc]


def with_answer(tokenizer: PreTrainedTokenizerBase, special: set[int], row: Row, answer: str) -> dict[str, Any]:
    """A tokenized row with another answer behind its prompt, spelled and ended as its own answer is."""
    prompt, own = split(row, special)
    ends, closing = end_length(tokenizer, special, own), turn(tokenizer).end_text.strip()
    end, body = own[len(own) - ends :], own[: len(own) - ends]
    written = str(tokenizer.decode(body, skip_special_tokens=True))
    said, space = written.strip(), written[len(written.rstrip()) :]  # a template may write a line break after a turn
    if closing and said.endswith(closing):
        answer = f"{answer}{closing}"
    tokens = [*_spelled(tokenizer, f"{answer}{space}", said, body), *end]
    return {"input_ids": [*prompt, *tokens], "labels": [IGNORE] * len(prompt) + tokens}


def _spelled(tokenizer: PreTrainedTokenizerBase, answer: str, said: str, tokens: Sequence[int]) -> list[int]:
    """The tokens of an answer behind its prompt: after nothing, a space or a line break, as what is `said` there comes to begin with its `tokens`."""

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    ways = (("", 0), (" ", 0), ("\n", len(ids("\n"))))  # the line break itself belongs to the prompt
    before, skipped = next((way for way in ways if ids(f"{way[0]}{said}")[way[1] :][:1] == list(tokens[:1])), (" ", 0))
    return ids(f"{before}{answer}")[skipped:]


def _prompts(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> list[str]:
    special = special_ids(tokenizer)
    return [text(tokenizer, split(row, special)[0]) for row in rows]


def _whole(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], answers: Sequence[str]) -> list[str]:
    """Answers that ran into their limit, cut to whole sentences."""
    special, found = special_ids(tokenizer), []
    for row, answer in zip(rows, answers, strict=True):
        own = split(row, special)[1]
        length = len(tokenizer(answer, add_special_tokens=False)["input_ids"])
        cut = bool(end_length(tokenizer, special, own)) and length >= len(own) + MARGIN - SPACES
        found.append(whole_sentences(answer) if cut else answer)
    return found


def _some(sets: Mapping[str, Dataset], name: str) -> list[Row]:
    """At most `ASKED` rows of a set, evenly spaced."""
    return list(sets[name].select(evenly(len(sets[name]), ASKED))) if name in sets else []
