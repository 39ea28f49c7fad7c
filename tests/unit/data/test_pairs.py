from collections import Counter

import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import skip_first_batches
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from peft_unlearn.data import Pairs, PairSampler, by_length, check_apart, collate, collate_rows, padding, padding_id
from peft_unlearn.util.errors import UserError


def numbered(size):
    """Rows whose first token tells which they are."""
    return Dataset.from_list([{"input_ids": [n, 7, 8][: 2 + n % 2], "labels": [-100, 7, 8][: 2 + n % 2]} for n in range(size)])


def pairs_of(forget, retain, *, seed, **others):
    """Of sets with so many rows."""
    sizes = {"forget": forget, "retain": retain, **others}
    return Pairs({stream: numbered(size) for stream, size in sizes.items()}, seed)


def drawn(pairs, examples):
    return [(pairs[n]["forget"]["input_ids"][0], pairs[n]["retain"]["input_ids"][0]) for n in examples]


@pytest.mark.parametrize(("forgets", "retains"), [(6, 14), (14, 6), (5, 1), (1, 5), (8, 8)])
def test_every_row_is_seen_equally_often(forgets, retains):
    pairs = pairs_of(forgets, retains, seed=3)
    seen = drawn(pairs, range(3 * forgets * retains))
    assert Counter(f for f, _ in seen) == dict.fromkeys(range(forgets), 3 * retains)
    assert Counter(r for _, r in seen) == dict.fromkeys(range(retains), 3 * forgets)
    for first in range(0, len(seen) - retains, retains):
        assert {r for _, r in seen[first : first + retains]} == set(range(retains))


def test_an_epoch_is_each_forget_row_once_in_another_order():
    pairs = pairs_of(40, 40, seed=3)
    first, second = ([f for f, _ in drawn(pairs, range(start, start + 40))] for start in (0, 40))
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    assert first != [r for _, r in drawn(pairs, range(40))], "forget and retain orders must differ"


def test_a_pair_depends_on_seed_and_number_alone():
    one, two = (pairs_of(9, 23, seed=5) for _ in range(2))
    torch.manual_seed(0)
    forwards = drawn(one, range(60))
    torch.manual_seed(1)
    assert drawn(two, reversed(range(60))) == forwards[::-1]
    assert drawn(pairs_of(9, 23, seed=6), range(60)) != forwards


def of_holdout(pairs, examples):
    return [pairs[n]["holdout"]["input_ids"][0] for n in examples]


@pytest.mark.parametrize(("forgets", "retains", "holdouts"), [(6, 14, 4), (3, 2, 10), (5, 5, 1), (8, 8, 8)])
def test_a_holdout_is_drawn_evenly_beside_the_pairs_and_changes_none_of_them(forgets, retains, holdouts):
    pairs = pairs_of(forgets, retains, seed=3, holdout=holdouts)
    drawn_rows = of_holdout(pairs, range(5 * holdouts))
    passes = [drawn_rows[first : first + holdouts] for first in range(0, len(drawn_rows), holdouts)]
    assert all(sorted(one) == list(range(holdouts)) for one in passes)
    assert holdouts < 3 or len(set(map(tuple, passes))) > 1  # not always in the same order
    without = pairs_of(forgets, retains, seed=3)
    assert drawn(pairs, range(40)) == drawn(without, range(40))
    assert set(without[0]) == {"forget", "retain"}
    assert len(pairs) == len(without) == forgets


def test_the_holdouts_order_is_its_own_and_depends_on_seed_and_number_alone():
    def pairs(seed, forgets=40):
        return pairs_of(forgets, 40, seed=seed, holdout=40)

    order = of_holdout(pairs(5), range(90))
    assert of_holdout(pairs(5), reversed(range(90))) == order[::-1]
    assert of_holdout(pairs(5, forgets=7), range(90)) == order
    assert of_holdout(pairs(6), range(90)) != order
    assert order[:40] not in [list(one) for one in zip(*drawn(pairs(5), range(40)), strict=True)]


def loader(workers=0):
    pairs = pairs_of(10, 7, seed=11)
    return DataLoader(pairs, batch_size=4, sampler=PairSampler(pairs), num_workers=workers, collate_fn=lambda rows: collate(rows, 0))


def first_tokens(batches):
    return [tuple(batch[stream]["input_ids"][:, 0].tolist() for stream in ("forget", "retain")) for batch in batches]


def test_a_prepared_loader_counts_on_through_the_epochs_and_resumes_where_it_was_cut():
    """Through accelerate, as transformers.Trainer drives it: set_epoch, then skip the batches already seen."""
    accelerator = Accelerator(cpu=True)
    uncut = accelerator.prepare(loader())
    seen = []
    for epoch in range(3):
        uncut.set_epoch(epoch)
        seen.append(first_tokens(uncut))
    pairs = pairs_of(10, 7, seed=11)
    flat = [pair for epoch in seen for forget, retain in epoch for pair in zip(forget, retain, strict=True)]
    assert flat == drawn(pairs, range(30))
    resumed = accelerator.prepare(loader(workers=1))
    resumed.set_epoch(2)
    assert first_tokens(skip_first_batches(resumed, 1)) == seen[2][1:]


def test_collate_pads_on_the_right_by_length_and_keeps_a_real_eos_that_equals_pad():
    eos = 9
    rows = [{"input_ids": [1, eos, 2, eos], "labels": [-100, eos, 2, eos]}, {"input_ids": [1, eos], "labels": [-100, eos]}]
    batch = collate_rows(rows, pad_token_id=eos)
    assert {value.dtype for value in batch.values()} == {torch.int64}
    assert batch["input_ids"].tolist() == [[1, eos, 2, eos], [1, eos, eos, eos]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, eos, 2, eos], [-100, eos, -100, -100]]


def test_collate_keeps_the_streams_apart():
    rows = {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [4], "labels": [-100]}
    batch = collate([{"forget": rows[0], "retain": rows[1]}] * 2, pad_token_id=0)
    assert batch["forget"]["input_ids"].shape == (2, 3)
    assert batch["retain"]["input_ids"].shape == (2, 1)
    assert set(batch) == {"forget", "retain"}
    batch = collate([{"forget": rows[0], "retain": rows[1], "holdout": row} for row in rows], pad_token_id=0)
    assert batch["holdout"]["input_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert batch["retain"]["input_ids"].shape == (2, 1)


class Named:
    def __init__(self, pad_token_id, eos_token_id):
        self.pad_token_id, self.eos_token_id = pad_token_id, eos_token_id


@pytest.mark.parametrize(("pad", "eos", "fills"), [(0, 2, 0), (5, 2, 5), (None, 2, 2), (None, 0, 0), (None, None, 0)])
def test_padding_needs_no_pad_token(pad, eos, fills):
    assert padding_id(Named(pad, eos)) == fills


@pytest.mark.parametrize("name", ["retain_dataset", "holdout_dataset"])
def test_forget_rows_in_another_set_are_named_whatever_their_spacing_and_format(name):
    forget = Dataset.from_list([{"question": "Who?", "answer": "Ann"}, {"question": "Where does\nAnn live?", "answer": "In  Oslo"}])
    other = Dataset.from_list([{"text": "Something else"}, {"text": " Where does Ann live? In Oslo"}])
    turns = [{"role": "user", "content": "Where does Ann live?"}, {"role": "assistant", "content": "In Oslo"}]
    written = Dataset.from_list([{"text": "Question: Who?"}, {"text": "Question: Where does Ann live?\nAnswer: In Oslo"}])
    for same in (other, written, Dataset.from_list([{"messages": turns[:1] + turns}, {"messages": turns}])):
        with pytest.raises(UserError, match=f"forget_dataset: row 2 also stands in {name} as row 2, take it out"):
            check_apart(forget, same, name)
    with pytest.raises(UserError, match=rf"row 1 also stands in {name} as row 1 \(and 1 more like it\)"):
        check_apart(forget, forget, name)


def test_tokenized_rows_are_told_by_their_tokens_whatever_their_labels():
    forget, other = numbered(5), numbered(9).select(range(3, 9))
    check_apart(forget.select(range(3)), other, "retain_dataset")
    relabelled = other.map(lambda row: {"labels": [-100, *row["input_ids"][1:]]})
    with pytest.raises(
        UserError, match=r"^forget_dataset: row 4 also stands in retain_dataset as row 1 \(and 1 more like it\), take it out"
    ):
        check_apart(forget, relabelled, "retain_dataset")


def test_sets_that_share_no_row_pass():
    forget, retain = (Dataset.from_list([{"question": "Who?", "answer": name}]) for name in ("Ann", "Bob"))
    check_apart(forget, retain, "retain_dataset")


row_lengths = st.lists(st.tuples(st.integers(2, 40), st.integers(2, 40)), min_size=1, max_size=24)


@given(lengths=row_lengths, size=st.integers(1, 5))
def test_rows_of_about_one_length_share_a_micro_batch_and_none_is_lost(lengths, size):
    pairs = [{"forget": long(i, a), "retain": long(100 + i, b)} for i, (a, b) in enumerate(lengths)]
    micro = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    dealt = by_length(micro)
    assert [len(batch) for batch in dealt] == [len(batch) for batch in micro]
    for stream in ("forget", "retain"):
        given_rows, rows = ([pair[stream] for batch in batches for pair in batch] for batches in (micro, dealt))
        assert sorted(row["input_ids"][0] for row in rows) == sorted(row["input_ids"][0] for row in given_rows)
        assert [len(row["input_ids"]) for row in rows] == sorted((len(row["input_ids"]) for row in rows), reverse=True)
    before, after = (sum(padding(collate(batch, 0))[0] for batch in batches) for batches in (micro, dealt))
    if len(pairs) % size == 0:  # else the last micro-batch is a small one, wherever it came
        assert after <= before


def long(i, length):
    return {"input_ids": [i] * length, "labels": [i] * length}


def test_padding_is_what_no_row_has():
    batch = collate([{"forget": long(1, 3), "retain": long(2, 6)}, {"forget": long(3, 5), "retain": long(4, 6)}], 0)
    assert padding(batch) == (2, 2 * 5 + 2 * 6)


def test_places_are_the_positions_before_each_label():
    rows = [{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, -100, 8]}, {"input_ids": [5, 6], "labels": [5, 6]}]
    assert collate_rows(rows, 0)["places"].tolist() == [0, 2, 4]
