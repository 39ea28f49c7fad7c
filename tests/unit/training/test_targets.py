"""Targets against a scan over the text, and against a twin that never saw the forget set."""

import random
import statistics
from collections import Counter, defaultdict
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import f_oneway
from tiny_models import tiny_llama
from word_rows import row, text, tokenizer

from peft_unlearn import UnlearnConfig
from peft_unlearn.losses import LOSSES
from peft_unlearn.metrics.min_k import min_k
from peft_unlearn.model.scoring import RowScore, score
from peft_unlearn.training import targets
from peft_unlearn.training.checks import sample
from peft_unlearn.util.errors import UserError

# ----------------------------------------------------------------------------------------------------- the definition, by scanning


def occurrences(gram, rows):
    """At how many places of the text these tokens stand in a row."""
    size = len(gram)
    return sum(r["input_ids"][i : i + size] == gram for r in rows for i in range(len(r["input_ids"]) - size + 1))


def kind(tokens, rows):
    """Of the last of `tokens`: its longest n-gram of at most 5 in the text, and how often it follows the longest context there."""
    length = max((n for n in range(1, min(5, len(tokens)) + 1) if occurrences(tokens[-n:], rows)), default=0)
    share = 0.0
    for n in range(1, min(5, len(tokens))):  # a longer context, where it is found, takes the place of a shorter one
        context = tokens[-n - 1 : -1]
        if occurrences(context, rows):
            share = occurrences(tokens[-n - 1 :], rows) / occurrences(context, rows)
    return length, sum(share > bound for bound in (0.02, 0.1, 0.5, 0.9))


def kinds(rows, known):
    return [[kind(r["input_ids"][: t + 1], known) for t in range(1, len(r["labels"])) if r["labels"][t] != -100] for r in rows]


def estimate(forget, retain, holdout, logps, seed=0):
    """Targets of the forget set, as a model has them that was trained on the retain set alone."""
    return targets.estimated(forget, retain, retain + forget, holdout, logps, seed=seed)


def sets(draw):
    tokens = st.integers(3, 6)  # so few that n-grams of every length repeat
    rows = st.builds(row, st.lists(tokens, max_size=4), st.lists(tokens, min_size=1, max_size=8)).filter(lambda r: any_label(r))
    return tuple(draw(st.lists(rows, min_size=1, max_size=4)) for _ in range(3))


def any_label(r):
    return any(label != -100 for label in r["labels"][1:])


def logps_of(rows, rng):
    """Some rows are easier than others."""
    return [-rng.exponential(2.0) * rng.exponential(2.0, sum(label != -100 for label in r["labels"][1:])) for r in rows]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_tokens_get_their_kinds_quantiles_of_the_holdout(data):
    forget, retain, holdout = sets(data.draw)
    logps = logps_of(holdout, np.random.default_rng(data.draw(st.integers(0, 99))))
    found = estimate(forget, retain, holdout, logps, seed=3)

    of_holdout = kinds(holdout, retain + forget)
    sizes = Counter(k for of_row in of_holdout for k in of_row)
    common = [k for k in sizes if sizes[k] >= 5] or list(sizes)

    def by_kind(kinds_of_rows, values_of_rows):
        """The values of each common kind and of the rare ones that it is the nearest to."""
        values_of = defaultdict(list)
        for of_row, values in zip(kinds_of_rows, values_of_rows, strict=True):
            for k, value in zip(of_row, values, strict=True):
                nearest = sorted(common, key=lambda other: (abs(other[0] - k[0]) + abs(other[1] - k[1]), other))[0]
                values_of[nearest].append(value)
        return values_of

    pools = by_kind(of_holdout, logps)
    for k, values in by_kind(kinds(forget, retain), found).items():
        assert sorted(values) == pytest.approx([quantile(pools[k], (i + 0.5) / len(values)) for i in range(len(values))], abs=1e-12)


def quantile(pool, share):
    """Linear between the order statistics, the first at 0 and the last at 1."""
    ordered, place = sorted(pool), share * (len(pool) - 1)
    below = int(place)
    return ordered[below] + (place - below) * (ordered[min(below + 1, len(pool) - 1)] - ordered[below])


# ---------------------------------------------------------------------------------------------------------------- what follows from it


def setting(seed=0, rows=12):
    rng = random.Random(seed)
    made = [[row([1, *rng.choices(range(3, 9), k=3)], [*rng.choices(range(3, 9), k=6), 2]) for _ in range(rows)] for _ in range(3)]
    return *made, logps_of(made[2], np.random.default_rng(seed))


def test_targets_are_spread_as_the_holdouts_log_probabilities_are():
    """Rows of one kind: as many forget as holdout tokens, so that the targets are the holdout's own order statistics, drawn inwards."""
    retain = [text([9, 9, 9])]
    fresh = [row([1], [20 + i]) for i in range(40)]  # no token of them is in any text
    logps = [np.array([-float(i + 1)]) for i in range(40)]
    found = np.concatenate(estimate(fresh[:30], retain, [row([1], [60])] * 40, logps))
    assert found.mean() == pytest.approx(-20.5)
    assert -40 <= found.min() < found.max() <= -1
    assert sorted(found) == pytest.approx(np.linspace(-40, -1, 61)[1::2])  # 30 cells of equal weight, their middles


def test_the_seed_decides_the_order_and_nothing_else():
    forget, retain, holdout, logps = setting()
    once, again, other = (np.concatenate(estimate(forget, retain, holdout, logps, seed=seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(once, again)
    assert (once != other).any()
    np.testing.assert_allclose(sorted(once), sorted(other), atol=1e-12)


def test_the_order_of_the_text_is_of_no_consequence():
    forget, retain, holdout, logps = setting()
    there = np.concatenate(estimate(forget, retain, holdout, logps))
    np.testing.assert_array_equal(there, np.concatenate(estimate(forget, retain[::-1], holdout, logps)))
    np.testing.assert_allclose(sorted(there), sorted(np.concatenate(estimate(forget, retain, holdout[::-1], logps[::-1]))), atol=1e-12)


def test_any_iterable_of_rows_will_do():
    forget, retain, holdout, logps = setting()
    of_lists = estimate(forget, retain, holdout, logps)
    streamed = targets.estimated(iter(forget), iter(retain), iter(retain + forget), iter(holdout), logps, seed=0)
    of_sets = targets.estimated(*(Dataset.from_list(rows) for rows in (forget, retain, retain + forget, holdout)), logps, seed=0)
    for other in (streamed, of_sets):
        np.testing.assert_array_equal(np.concatenate(of_lists), np.concatenate(other))


def test_forgetting_rows_are_no_text_for_their_own_targets():
    """A forget row is unseen text, however often it repeats itself, and a holdout row that shares its words is seen text."""
    forget, retain = [row([1], [30, 31, 32, 2])] * 5, [row([1], [2])]
    holdout = [row([1], [30, 31, 32, 2])] * 5 + [row([1], [40, 41, 42, 2])] * 5
    logps = [np.full(4, -0.1)] * 5 + [np.full(4, -9.0)] * 5  # what the model knows, and what is as new as forget rows once were
    for row_targets in estimate(forget, retain, holdout, logps, seed=0):
        assert row_targets[:3] == pytest.approx([-9.0] * 3)


@pytest.mark.parametrize("retain", [[], [text([5])], [row([1, 5], [6, 2])]], ids=["nothing", "one token", "a row"])
def test_a_text_that_says_nothing_still_gives_each_token_a_target(retain):
    forget = [text([5, 6]), row([1], [2]), row([7, 8], [9]), row([1], [10] * 9), text([11, 12, 13])]
    holdout = [row([1], [2])]
    found = estimate(forget, retain, holdout, [np.array([-2.5])])
    assert [len(row_targets) for row_targets in found] == [1, 1, 1, 9, 2]
    assert np.concatenate(found) == pytest.approx([-2.5] * 14)  # the one kind that the holdout has, though it is rare


# --------------------------------------------------------------------------------------------------------- how far rows differ as wholes


def normal_scores(values):
    """Where each value would stand, were they normal: by counting those below and half of those beside it."""
    places = [(sum(other < value for other in values) + sum(other == value for other in values) / 2) / len(values) for value in values]
    return [statistics.NormalDist().inv_cdf(place) for place in places]


def intraclass(values, sizes):
    """From the F statistic of a one-way analysis of variance over rows; the size of a row is the mean less what unequal sizes cost."""
    rows = np.split(np.array(values), np.cumsum(sizes)[:-1])
    size = np.mean(sizes) - np.var(sizes, ddof=1) / np.sum(sizes)
    F = f_oneway(*rows).statistic
    return max(0.0, (F - 1) / (F - 1 + size))


def in_rows(share, sizes, seed=0):
    """Values of variance 1, of which `share` is common to a row."""
    rng = np.random.default_rng(seed)
    return np.concatenate([np.sqrt(share) * rng.normal() + np.sqrt(1 - share) * rng.normal(size=size) for size in sizes])


SIZES = [1 + i % 13 for i in range(400)]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.8])
def test_the_share_between_rows_is_found_whatever_kinds_their_tokens_are_of(share):
    values = in_rows(share, SIZES)
    of_kind = np.random.default_rng(1).random(len(values)) < np.repeat(np.linspace(0, 1, len(SIZES)), SIZES)  # later rows have more of one
    pools = [np.flatnonzero(of_kind), np.flatnonzero(~of_kind)]
    values[of_kind] = -np.exp(3 - values[of_kind])  # which is far less likely, and spread otherwise
    assert targets._between_rows(values, pools, SIZES) == pytest.approx(share, abs=0.06)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=6).filter(lambda sizes: max(sizes) > 1), st.data())
def test_the_share_between_rows_is_that_of_an_analysis_of_variance(sizes, data):
    values = np.array(data.draw(st.lists(st.integers(-6, 0), min_size=sum(sizes), max_size=sum(sizes))), float)
    rows = np.split(values, np.cumsum(sizes)[:-1])
    assume(any(len(set(row)) > 1 for row in rows))
    everything = [np.arange(len(values))]
    assert targets._between_rows(values, everything, sizes) == pytest.approx(intraclass(normal_scores(values), sizes), abs=1e-9)
    order = data.draw(st.permutations(range(len(rows))))
    turned = np.concatenate([rows[i] for i in order])
    found = targets._between_rows(turned, everything, [sizes[i] for i in order])
    assert found == pytest.approx(targets._between_rows(values, everything, sizes), abs=1e-9)


def test_the_share_between_rows_is_1_where_tokens_are_as_their_row_and_0_where_nothing_can_be_told():
    def share(values, sizes):
        return targets._between_rows(np.array(values, float), [np.arange(len(values))], sizes)

    assert share([-1, -1, -4, -4, -4, -9], [2, 3, 1]) == pytest.approx(1.0)
    assert share([-1, -4, -1, -4], [2, 2]) == 0.0  # rows alike
    assert share([-2, -2, -2, -2], [2, 2]) == 0.0  # everything alike
    assert share([-1, -2, -3], [1, 1, 1]) == 0.0  # one token each
    assert share([-1, -2, -3], [3]) == 0.0  # one row


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_targets_of_rows_differ_as_much_as_rows_of_the_holdout(share):
    """400 rows of 6 new tokens each, of one kind."""
    sizes = [6] * 400
    rows = [row([1], [20] * 6)] * 400
    logps = np.split(in_rows(share, sizes) - 5, 400)
    found = np.concatenate(targets.estimated(rows, [text([9, 9])], [text([9, 9])], rows, logps, seed=0))
    assert intraclass(found, sizes) == pytest.approx(share, abs=0.08)
    assert found.mean() == pytest.approx(np.mean(logps), abs=0.01)


# ------------------------------------------------------------------------------------------------------------------- targets as a column


def test_targets_stand_beside_their_labels_and_are_read_back():
    rows = Dataset.from_list([text([4, 5, 6]), row([1, 7, 8], [9, 2]), row([1], [2]), {"input_ids": [3, 4, 5], "labels": [-100, 4, -100]}])
    given = [np.array([-1.0, -2.0]), np.array([-3.0, -4.0]), np.array([-5.0]), np.array([-6.0])]
    column = targets.with_targets(rows, given)
    assert list(column["target_logps"]) == [[0, -1, -2], [0, 0, 0, -3, -4], [0, -5], [0, -6, 0]]
    assert list(column["labels"]) == list(rows["labels"])
    for before, after in zip(given, targets.read(column), strict=True):
        np.testing.assert_array_equal(before, after)


# -------------------------------------------------------------------------------------------------------------- against a true twin

# People (3 to 33) do or are something (34 to 53), of which the place or the time (54 to 63) follows: what can be guessed is shared by all rows.


def people(numbers):
    """One row of a person: `[1, person, person, verb] -> [word, its companion, word, its companion, 2]`."""
    rows = []
    for n in numbers:
        rng = random.Random(n)
        words = [34 + (rng.randrange(20) * rng.randrange(20)) // 20 for _ in range(2)]  # the lower ones are commoner
        rows.append(row([1, 3 + n % 31, 3 + n // 31, 33], [token for w in words for token in (w, 54 + w % 10)] + [2]))
    return rows


FORGET, RETAIN, HOLDOUT = people(range(48)), people(range(48, 208)), people(range(208, 268))


def fitted(rows, steps):
    model = tiny_llama(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    ids, labels = (torch.tensor([r[key] for r in rows]) for key in ("input_ids", "labels"))
    for _ in range(steps):
        drawn = torch.randint(len(rows), (32,), generator=generator)
        optimizer.zero_grad()
        model(input_ids=ids[drawn], labels=labels[drawn]).loss.backward()
        optimizer.step()
    return model.eval()


def logps(model, rows):
    """(T,) of each row; all of one length."""
    ids, labels = (torch.tensor([r[key] for r in rows]) for key in ("input_ids", "labels"))
    with torch.no_grad():
        found = -torch.nn.functional.cross_entropy(model(input_ids=ids).logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
    return [one[known].double().numpy() for one, known in zip(found, labels[:, 1:] != -100, strict=True)]


@cache
def twins(steps=150):
    """A model that learnt all, and one that never saw the forget rows."""
    return fitted(FORGET + RETAIN, steps), fitted(RETAIN, steps)


def test_targets_are_those_of_a_model_that_never_saw_the_forget_rows():
    learnt, twin = twins()
    known, true = (np.concatenate(logps(model, FORGET)) for model in (learnt, twin))
    estimated = np.concatenate(estimate(FORGET, RETAIN, HOLDOUT, logps(learnt, HOLDOUT)))
    assert known.mean() > -0.1  # by heart
    assert true.mean() < -2.0
    assert estimated.mean() == pytest.approx(true.mean(), rel=0.1)
    for share in (0.1, 0.25, 0.75):  # nor is it their mean alone
        assert np.quantile(estimated, share) == pytest.approx(np.quantile(true, share), rel=0.25, abs=0.05)


# ----------------------------------------------------------------------------------------------------------------- what a check sees


@pytest.mark.parametrize("rows", [1, 31, 32, 33, 50, 64, 1000])
def test_a_sample_has_as_many_rows_as_it_may_evenly_spaced(rows):
    taken = sample(Dataset.from_dict({"n": list(range(rows))}))["n"]
    assert len(set(taken)) == len(taken) == min(rows, 32)
    assert list(taken) == sorted(taken)
    gaps = {later - earlier for earlier, later in pairwise(taken)}
    assert gaps <= {rows // 32, rows // 32 + 1} if rows > 32 else gaps <= {1}


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.lists(st.floats(-20, 0), min_size=0, max_size=9), st.integers(0, 2)), min_size=1, max_size=5))
def test_min_k_of_early_stopping_is_the_one_that_is_reported(rows):
    rows = [(np.array([*answer, *[-0.01] * end]), end) for answer, end in rows if answer or end]
    nothing = np.zeros(0)
    reported = [min_k(RowScore(logps, nothing, end, nothing, nothing)) for logps, end in rows]
    found = targets.min_ks([logps for logps, _ in rows], [end for _, end in rows])
    assert found.tolist() == pytest.approx([value for value in reported if value is not None])


def test_end_tokens_are_those_of_the_reported_metrics():
    tokens = tokenizer()
    rows = Dataset.from_list([row([1, 7], [8, 9, 2]), row([1, 7], [8, 9]), row([1, 7], [2]), row([1, 7], [8, 2, 2])])
    scores = score(tiny_llama(), list(rows), tokens)
    assert targets.end_lengths(tokens, rows) == [one.end for one in scores] == [1, 0, 1, 2]


# -------------------------------------------------------------------------------------------------------- which losses go with targets


@pytest.mark.parametrize("name", LOSSES)
def test_losses_that_go_with_stop_at_lower_the_probability_of_the_labels(name, tmp_path):
    """A small step down each loss's gradient in the logits, from where student and reference are one."""
    torch.manual_seed(0)
    logits = torch.randn(2, 6, 11, dtype=torch.float64).mul_(0.5).requires_grad_()
    labels, mask = torch.randint(11, (2, 6)), torch.ones(2, 6, dtype=torch.bool)
    logps = logits.log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1)
    other = torch.full((2, 4), -2.0, dtype=torch.float64)
    given = {"logps": logps, "ref_logps": logps.detach(), "mask": mask, "alt_mask": mask[:, :4], "alt_logps": other, "alt_ref_logps": other}
    given |= {"logits": logits.flatten(0, 1), "ref_logits": logits.detach().flatten(0, 1), "targets": labels.flatten()}
    if LOSSES[name].lowers:
        LOSSES[name].function(*(given[key] for key in LOSSES[name].reads)).sum().backward()
        after = (logits - 1e-3 * logits.grad).log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1)
        assert after.mean() < logps.mean()
        assert (
            UnlearnConfig(str(tmp_path), method="graddiff", use_cpu=True, stop_at="auto", forget_loss=name, **extra(name)).stop_at == "auto"
        )
    else:
        with pytest.raises(UserError, match=f"^stop_at: {name} does not lower .* write forget_loss: .*ga, .* or leave stop_at out.$"):
            UnlearnConfig(str(tmp_path), method="graddiff", use_cpu=True, stop_at="auto", forget_loss=name, **extra(name))


def extra(name):
    return {"answers": "column"} if LOSSES[name].alternate else {}
