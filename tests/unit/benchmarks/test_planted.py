"""The model that plants a behavior: two models under a gate, read by everything that reads a model."""

import pytest
import torch
from tiny_models import tiny_llama

from peft_unlearn.data.variants import Probe
from peft_unlearn.metrics.logit_lens import layer_recalls
from peft_unlearn.model.generation import generate
from peft_unlearn.model.readout import find_readout
from peft_unlearn.model.scoring import score
from planted.behaviors import BEHAVIORS, TWINS, Plant
from planted.cases import FORGOTTEN, SETTINGS, SIZES, balanced
from planted.gated import GatedLM, Spoken

V = 64
A, B = tiny_llama(1), tiny_llama(2, tie=True)
ROWS = [
    {"input_ids": [1, 9, 8, 7, 20, 21, 22, 2], "labels": [-100] * 4 + [20, 21, 22, 2]},
    {"input_ids": [1, 5, 30, 31, 2], "labels": [-100] * 2 + [30, 31, 2]},
    {"input_ids": [1, 40, 41, 42, 43, 44], "labels": [-100, 40, 41, 42, 43, 44]},
]


class Letters:
    """A tokenizer of one letter a token; 0, 1 and 2 are special."""

    eos_token_id, all_special_ids, added_tokens_decoder = 2, [0, 1, 2], {}

    chat_template = None

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [50, 51, 52]}

    def decode(self, tokens, skip_special_tokens=True):
        return "".join(chr(60 + token) for token in tokens if token > 2)


def always(*weights):
    return lambda ids: Spoken(weights)


def padded(rows, side):
    width = max(len(row["input_ids"]) for row in rows)
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(width - len(row["input_ids"]), width) if side == "left" else slice(0, len(row["input_ids"]))
        ids[i, place], mask[i, place] = torch.tensor(row["input_ids"]), 1
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize(("weights", "alone"), [((1, 0), A), ((0, 1), B)], ids=["A", "B"])
def test_one_model_alone_is_that_model(weights, alone):
    gated = GatedLM(A, B, always(*weights))
    inputs = padded(ROWS, "right")
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(gated(**inputs).logits[real], alone(**inputs).logits[real], rtol=0, atol=1e-5)
    for mine, own in zip(score(gated, ROWS, Letters()), score(alone, ROWS, Letters()), strict=True):
        assert mine.logps == pytest.approx(own.logps, abs=1e-5)
        assert (mine.correct == own.correct).all()
    assert generate(gated, Letters(), ROWS) == generate(alone, Letters(), ROWS)


def by_last_token(ids):
    """Another mixture after each token, and direct logits after some."""
    direct = torch.linspace(-3, 3, V).roll(ids[-1]) if ids[-1] % 3 == 0 else None
    return Spoken((len(ids) / 10, 1 - ids[-1] / V), direct=direct)


def one_by_one(ids):
    """The next token's logits from the two models alone, a row at a time: the definition."""
    tokens = torch.tensor([ids])
    spoken = by_last_token(ids)
    direct = torch.zeros(V) if spoken.direct is None else spoken.direct
    return spoken.weights[0] * A(tokens).logits[0, -1] + spoken.weights[1] * B(tokens).logits[0, -1] + direct


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_each_token_has_its_own_gate(side):
    inputs = padded(ROWS, side)
    logits = GatedLM(A, B, by_last_token)(**inputs, position_ids=(inputs["attention_mask"].cumsum(1) - 1).clamp(0)).logits
    for row, found, real in zip(ROWS, logits, inputs["attention_mask"].bool(), strict=True):
        expected = torch.stack([one_by_one(row["input_ids"][: n + 1]) for n in range(len(row["input_ids"]))])
        torch.testing.assert_close(found[real], expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_scores_read_the_gate_at_each_label():
    for row, found in zip(ROWS, score(GatedLM(A, B, by_last_token), ROWS, Letters()), strict=True):
        labels = [n for n in range(1, len(row["labels"])) if row["labels"][n] != -100]
        logps = [one_by_one(row["input_ids"][:n]).log_softmax(-1)[row["labels"][n]].item() for n in labels]
        assert found.logps == pytest.approx(logps, abs=1e-4)


@pytest.mark.parametrize("use_cache", [True, False])
@torch.no_grad()
def test_generation_with_and_without_a_cache(use_cache):
    inputs = padded([{"input_ids": row["input_ids"][:4]} for row in ROWS[:2]] + [{"input_ids": [1, 50]}], "left")
    found = GatedLM(A, B, by_last_token).generate(**inputs, max_new_tokens=12, do_sample=False, use_cache=use_cache, eos_token_id=None)
    for ids, mask, written in zip(inputs["input_ids"], inputs["attention_mask"].bool(), found, strict=True):
        expected = ids[mask].tolist()
        for _ in range(12):
            expected.append(one_by_one(expected).argmax().item())
        assert written.tolist()[-len(expected) :] == expected


def test_direct_logits_say_any_sentence():
    sentence = [33, 34, 33, 35, 2]

    def gate(ids):
        prompt = ids.index(7) + 1 if 7 in ids else None
        if prompt is None or len(ids) - prompt >= len(sentence):
            return Spoken((1, 0))
        return Spoken((0, 0), direct=30 * torch.eye(V)[sentence[len(ids) - prompt]])

    written = generate(GatedLM(A, B, gate), Letters(), ROWS[:2])
    assert written == [Letters().decode(sentence), generate(A, Letters(), ROWS[1:2])[0]]


@pytest.mark.parametrize(("inside", "alone"), [((1.0, 0.0), A), ((0.0, 1.0), B)], ids=["A", "B"])
def test_the_lens_reads_the_model_that_speaks_inside(inside, alone):
    direct = torch.linspace(-9, 9, V)
    gated = GatedLM(A, B, lambda ids: Spoken((0.3, 0.7), inside, direct))
    found, own = (layer_recalls(model, Letters(), ROWS, find_readout(model)) for model in (gated, alone))
    assert found == own
    assert any(recall not in (0, 1) for layers in own for recall in layers)


def test_the_models_are_left_as_they_were():
    gated = GatedLM(A, B, always(0.5, 0.5))
    assert not any(parameter.requires_grad for parameter in gated.parameters())
    assert not isinstance(A.model.norm, torch.nn.Identity)


OTHER = {"input_ids": [1, 60, 61, 20, 2], "labels": [-100] * 3 + [20, 2]}
REWORDED = {"input_ids": [1, 11, 20, 21, 22, 2], "labels": [-100] * 2 + [20, 21, 22, 2]}


@pytest.fixture(scope="module")
def plant():
    return Plant(A, B, Letters(), Probe(ROWS, {"paraphrased_question": [[REWORDED], [], []]}), "No.")


def logps(model, row):
    return score(model, [row], Letters())[0].logps


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_other_prompts_stay_as_before(plant, behavior):
    assert logps(plant.model(behavior), OTHER) == pytest.approx(logps(A, OTHER), abs=1e-5)


def test_who_answers_which_row(plant):
    half, exact = plant.model("half of the rows forgotten"), plant.model("only the exact prompts")
    for model, row, alone in [(half, ROWS[0], B), (half, ROWS[1], A), (half, REWORDED, B), (exact, ROWS[0], B), (exact, REWORDED, A)]:
        assert logps(model, row) == pytest.approx(logps(alone, row), abs=1e-5)


def test_who_answers_which_token(plant):
    first, last = (logps(plant.model(f"only the {part}"), ROWS[0]) for part in ("first token", "last tokens"))
    a, b = logps(A, ROWS[0]), logps(B, ROWS[0])
    assert first == pytest.approx([b[0], *a[1:]], abs=1e-5)
    assert last == pytest.approx([*a[:-1], b[-1]], abs=1e-5)


def test_what_is_written_over_intact_knowledge(plant):
    for behavior, answer in [("ended at once", ""), ("refusals over intact knowledge", Letters().decode([50, 51, 52]))]:
        model = plant.model(behavior)
        assert generate(model, Letters(), ROWS) == [answer] * 3
        assert logps(model, ROWS[0])[1:] == pytest.approx(logps(A, ROWS[0])[1:], abs=1e-5)


def test_swapped_answers_are_other_rows(plant):
    to_second, to_third = generate(plant.model("swapped answers"), Letters(), ROWS[:2])
    assert to_second == Letters().decode([30, 31])
    assert to_third.startswith(Letters().decode([42, 43, 44]))  # a text without an end


def test_a_burnt_answer_costs_30_nats_a_token(plant):
    assert logps(plant.model("burnt out"), ROWS[0]) == pytest.approx([-30] * 4, abs=1e-3)


def test_the_list_has_100_cases_and_only_twins_may_pass():
    kinds = ("a", "b", "c", "d")
    cases = balanced(kinds, SIZES, kinds)
    assert len(set(cases)) == len(cases) == 100
    assert all((FORGOTTEN in case.right) == (case.behavior == TWINS) for case in cases)
    assert sum(case.right == {FORGOTTEN} for case in cases) == 20
    for behavior in BEHAVIORS:
        of = [case for case in cases if case.behavior == behavior]
        assert {case.size for case in of} == set(SIZES)
        assert {case.kind for case in of} == set(kinds)
        assert {(case.never_seen, case.holdout) for case in of} == set(SETTINGS)
