"""Prompts with gaps: what may go and what stays, and that it hangs on seed and number alone."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from peft_unlearn.data import Pairs
from peft_unlearn.data.prompt_dropout import LONGEST, PromptDropout
from peft_unlearn.data.rows import vocabulary

BOS, QUESTION, ANSWER, END = 1, 10, 11, 2
OTHERS = range(5000, 5040)  # the vocabulary: tokens that no row has


def dropout(rows: list[dict], share: float, target_scale: float = 1.0) -> PromptDropout:
    return PromptDropout(rows, share, OTHERS, target_scale)


def asked(n: int, words: int = 6) -> dict:
    """[BOS, "Question", words of its own, "Answer", three tokens of an answer, END], with targets that tell which label they belong to."""
    prompt = [BOS, QUESTION, *(100 * n + 20 + i for i in range(words)), ANSWER]
    answer = [100 * n + 50 + i for i in range(3)] + [END]
    return {
        "input_ids": prompt + answer,
        "labels": [-100] * len(prompt) + answer,
        "target_logps": [0.0] * len(prompt) + [-float(token) for token in answer],
    }


def text(n: int, *, begin: bool) -> dict:
    tokens = [BOS] * begin + [100 * n + 20 + i for i in range(12)] + [END]
    return {"input_ids": tokens, "labels": [-100, *tokens[1:]], "target_logps": [0.0] + [-float(token) for token in tokens[1:]]}


def is_part(some: list, whole: list) -> bool:
    """Whether `some` are of the whole, in its order."""
    rest = iter(whole)
    return all(token in rest for token in some)


def is_part_beside_a_piece(some: list, whole: list) -> bool:
    """Whether `some` are of the whole, in its order, but for at most `LONGEST` in one piece."""
    cut = (some[:at] + some[at + size :] for size in range(LONGEST + 1) for at in range(len(some) + 1 - size))
    return any(is_part(rest, whole) for rest in cut)


shares, seeds = st.floats(0.0, 1.0), st.integers(0, 10**6)


@settings(deadline=None, max_examples=100)
@given(shares, seeds, st.integers(8, 20))
def test_words_of_a_prompt_go_or_come_in_and_template_answer_and_targets_stay(share, seed, count):
    rows = [*(asked(n) for n in range(count - 1)), asked(count - 1, words=11)]
    found = dropout(rows, share)(rows[3], np.random.default_rng(seed))
    whole, left = rows[3]["input_ids"], found["input_ids"]
    assert is_part_beside_a_piece(left, whole)
    assert len(left) <= len(rows[-1]["input_ids"])
    assert set(left) <= set(whole) | set(OTHERS)
    assert left[:2] == [BOS, QUESTION]
    assert left[-5:] == whole[-5:]
    prompt = len(left) - 4
    assert found["labels"] == [-100] * prompt + left[prompt:]
    assert found["target_logps"] == [0.0] * prompt + [-float(token) for token in left[prompt:]]
    assert rows[3] == asked(3)  # the row itself is as it was


def test_the_share_is_that_of_the_words_that_are_the_prompts_own():
    rows = [asked(n, words=50) for n in range(8)]
    rng = np.random.default_rng(0)
    lost = []
    for n in range(200):
        own = set(rows[n % 8]["input_ids"][2:-5])
        lost.append(50 - len(own.intersection(dropout(rows, 0.3)(rows[n % 8], rng)["input_ids"][:-4])))
    assert np.mean(lost) == pytest.approx(15, abs=0.7)
    assert dropout(rows, 0.0)(rows[0], rng) == rows[0]
    assert len(dropout(rows, 1.0)(rows[0], rng)["input_ids"]) == 7


def test_every_other_time_random_tokens_come_in_side_by_side():
    rows, rng, came, which = [asked(n, words=30) for n in range(9)], np.random.default_rng(1), [], set()
    for n in range(400):
        found = dropout(rows, 0.3)(rows[n % 9], rng)["input_ids"]
        places = [place for place, token in enumerate(found) if token in OTHERS]
        came.append(len(places))
        which |= {found[place] for place in places}
        assert places == list(range(places[0], places[-1] + 1)) if places else True
    assert np.mean([count > 0 for count in came]) == pytest.approx(0.5, abs=0.08)
    assert set(came) == set(range(LONGEST + 1))
    assert which == set(OTHERS)


def test_half_of_what_comes_in_are_tokens_of_prompts_the_more_often_the_more_prompts_have_them():
    """Of 9 prompts with 30 words of their own, of which 8 share one more; the template's words do not come in, nor does what is no text."""
    common, unspoken, rows = 3000, 25, [asked(n, words=30) for n in range(9)]
    for row in rows[:8]:
        row["input_ids"].insert(4, common)
        row["labels"].insert(4, -100)
    words = {token for row in rows for token in row["input_ids"][2:-5]} - {unspoken}
    made, rng = PromptDropout(rows, 0.3, [*range(5000, 15000), *sorted(words)]), np.random.default_rng(2)
    came, of_prompts = Counter[int](), []
    for _ in range(2000):
        more = Counter(made(rows[8], rng)["input_ids"]) - Counter(rows[8]["input_ids"])
        came.update(more)
        of_prompts += [set(more) <= words] if more else []
    assert np.mean(of_prompts) == pytest.approx(0.5, abs=0.06)
    assert not {unspoken, QUESTION, ANSWER, BOS} & came.keys()
    others = words - {common, *rows[8]["input_ids"]}
    assert came[common] / np.mean([came[token] for token in others]) == pytest.approx(8, rel=0.35)


def test_targets_of_a_changed_row_are_lower_by_their_factor_and_the_row_itself_is_as_it_was():
    rows = [asked(n) for n in range(8)]
    for seed in range(20):
        found = dropout(rows, 0.3, target_scale=1.25)(rows[2], np.random.default_rng(seed))
        assert found["target_logps"][-4:] == [-1.25 * token for token in rows[2]["input_ids"][-4:]]
        assert not any(found["target_logps"][:-4])
    assert rows[2] == asked(2)


def test_what_comes_in_is_text_that_the_model_has_a_vector_for():
    found = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({f"w{i}": i for i in range(20)}, unk_token="w3")), bos_token="w1", eos_token="w2"
    )
    found.add_tokens(["<picture>"])
    assert vocabulary(found, 100) == [0, *range(3, 20)]
    assert vocabulary(found, 15) == [0, *range(3, 15)]


@pytest.mark.parametrize("begin", [True, False], ids=["with BOS", "without BOS"])
@settings(deadline=None, max_examples=60)
@given(seeds)
def test_of_a_text_its_beginning_goes_and_never_more_than_a_third(begin, seed):
    rows = [text(n, begin=begin) for n in range(9)]
    whole, found = rows[4]["input_ids"], dropout(rows, 0.3)(rows[4], np.random.default_rng(seed))
    left = found["input_ids"]
    assert left[0] == whole[0]
    assert left[1:] == whole[len(whole) - len(left) + 1 :]  # what is left is in one piece
    assert 3 * (len(whole) - len(left)) <= len(whole)
    assert found["labels"] == [-100, *left[1:]]
    assert found["target_logps"] == [0.0] + [-float(token) for token in left[1:]]


def test_beginnings_of_texts_do_go():
    for begin in (True, False):
        rows = [text(n, begin=begin) for n in range(9)]
        lengths = {len(dropout(rows, 0.3)(rows[0], np.random.default_rng(seed))["input_ids"]) for seed in range(60)}
        assert len(lengths) > 3


def test_of_a_few_rows_nothing_goes_for_nobody_can_tell_their_template():
    rows = [asked(n) for n in range(7)]
    assert dropout(rows, 1.0)(rows[0], np.random.default_rng(0)) == rows[0]


# ----------------------------------------------------------------------------------------------------------------------- among pairs


def pairs(share: float, seed: int = 5, answers: int = 9) -> Pairs:
    sets = {
        "forget": [asked(n) for n in range(10)],
        "retain": [asked(n) for n in range(20, 27)],
        "answers": [asked(n) for n in range(answers)],
    }
    return Pairs({name: Dataset.from_list(rows) for name, rows in sets.items()}, seed, partial(dropout, share=share) if share else None)


def test_every_second_time_a_forget_row_or_an_answer_has_gaps_and_retain_rows_have_none():
    dropped, whole = pairs(0.5), pairs(0.0)
    for n in range(60):
        for stream, size in (("forget", 10), ("retain", 7), ("answers", 9)):
            found, before = dropped[n][stream], whole[n][stream]
            assert found["number"] == before["number"]  # the order is the same
            if stream == "retain" or (n // size + found["number"]) % 2 == 0:
                assert found == before
            else:
                assert is_part_beside_a_piece(found["input_ids"], before["input_ids"])
    for turn in range(3):  # of half of the rows in each pass
        lost = [
            len(set(whole[n]["forget"]["input_ids"]) - set(dropped[n]["forget"]["input_ids"])) for n in range(10 * turn, 10 * turn + 10)
        ]
        assert 3 <= sum(count > 0 for count in lost) <= 5
        assert sum(lost) > 5


def test_gaps_depend_on_seed_and_number_alone():
    once, again = pairs(0.5), pairs(0.5)
    forwards = [once[n] for n in range(40)]
    assert [again[n] for n in reversed(range(40))] == forwards[::-1]
    assert [pairs(0.5, seed=6)[n] for n in range(40)] != forwards
    first, third = ([once[n]["forget"] for n in range(start, start + 10)] for start in (10, 30))
    assert sorted(map(str, first)) != sorted(map(str, third))  # other gaps each time
