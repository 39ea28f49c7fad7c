"""The one path from sets to tokenized rows: what a trainer trains on is what is checked without a model."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from test_trainer import build
from test_trainer_equivalence import FORGET, HOLDOUT, LORA, PREFERRED, RETAIN, config, never_seen, tokenizer
from tiny_models import tiny_llama

from peft_unlearn import UnlearnTrainer
from peft_unlearn.data import self_retain
from peft_unlearn.data.prompt_dropout import PromptDropout
from peft_unlearn.training import datasets
from peft_unlearn.training import never_seen as never_seen_model
from peft_unlearn.training.held import split as holdout_split
from peft_unlearn.util.errors import UserError

QUESTIONS = Dataset.from_list(
    [
        {"question": f"w{i}", "answer": f"w{i + 1}", "alternate_answer": f"w{i + 2}", "perturbed_answer": [f"w{i + 3}"]}
        for i in range(30, 46)
    ]
)


def with_template():
    """A tokenizer whose template writes w5 before each conversation, or w9 where `nine` is set."""
    found = tokenizer()
    found.chat_template = "{% if nine %}w9 {% else %}w5 {% endif %}" + "{% for m in messages %}{{ m.content }} w2 {% endfor %}"
    return found


@pytest.mark.parametrize(("arguments", "first"), [(None, 5), ({"nine": True}, 9)])
def test_variables_of_the_chat_template_reach_every_row_that_a_trainer_tokenizes(arguments, first, tmp_path):
    args = config(tmp_path, "dpo", chat_template_kwargs=arguments)
    further = {"facts": QUESTIONS.select([3])}
    trainer = UnlearnTrainer(tiny_llama(), args, QUESTIONS, RETAIN, further, processing_class=with_template(), peft_config=LORA)
    for row in [*trainer.sets["forget"], *trainer.sets["forget"]["alternate"], *trainer.sets["facts"]]:
        assert row["input_ids"][0] == first


@pytest.mark.parametrize("method", ["graddiff", "dpo", "idkdpo"])
def test_rows_are_the_same_whether_a_trainer_tokenizes_them_or_is_given_what_was_checked_before(method, tmp_path):
    given = {"forget": QUESTIONS, "retain": Dataset.from_list([{"text": f"w{i} w3 w4"} for i in range(5, 9)])}
    args = config(tmp_path, method)
    probes = datasets.tokenize(args, tokenizer(), 64, given)
    assert set(probes["forget"].variants) == {"perturbed_answer"}
    from_text = build(tmp_path, method, forget_dataset=given["forget"], retain_dataset=given["retain"])
    from_tokens = build(tmp_path, method, forget_dataset=probes["forget"].rows, retain_dataset=probes["retain"].rows)
    for n in range(8):
        assert from_text.train_dataset[n] == from_tokens.train_dataset[n]
    assert ("alternate" in from_text.train_dataset[0]["forget"]) == (method != "graddiff")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forget": Dataset.from_list([{"other": "x"}])}, "^forget_dataset: "),
        ({"retain": "rows.jsonl"}, "^retain_dataset: a Dataset is needed"),
        ({"holdout": QUESTIONS}, "^forget_dataset: row 1 also stands in holdout_dataset as row 1"),
        ({"facts": Dataset.from_list([{"question": "w5"}])}, "^eval_dataset.facts: column 'answer' is missing"),
    ],
)
def test_wrong_rows_are_refused_without_a_model(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        datasets.tokenize(config(tmp_path, "graddiff"), tokenizer(), 64, {"forget": QUESTIONS, **changes})


@pytest.mark.parametrize(
    ("ids", "labels", "says"),
    [
        ([1, 5, 6], [-100, 5], "3 input_ids and 2 labels, give each token one"),
        ([1, -5, 6], [-100, 5, 6], "token -5, which the model has not"),
        ([1, 5, 6], [-100, 6, 7], "a label that is another token than its own, write the token itself or -100"),
        ([1, 5, 6], [-100] * 3, "no label after its first token, take the row out"),
        ([], [], "no label after its first token"),
    ],
)
def test_tokens_that_nothing_can_be_made_of_are_refused_with_their_row(ids, labels, says, tmp_path):
    good = {"input_ids": [1, 5, 6], "labels": [-100, 5, 6]}
    rows = Dataset.from_list([good, {"input_ids": ids, "labels": labels}])
    with pytest.raises(UserError, match=f"^forget_dataset: row 2 has {says}"):
        datasets.tokenize(config(tmp_path, "graddiff"), tokenizer(), 64, {"forget": rows})


def test_tokens_that_the_model_has_not_are_refused_before_it_reads_them(tmp_path):
    rows = Dataset.from_list([{"input_ids": [1, 5, token], "labels": [-100, 5, token]} for token in (6, tiny_llama().config.vocab_size)])
    with pytest.raises(UserError, match="^forget_dataset: row 2 has token .* which the model has not"):
        build(tmp_path, "graddiff", forget_dataset=rows)


def test_targets_of_the_holdout_are_read_and_not_trained_on(tmp_path):
    """Of a holdout that brings its targets, as the command line gives it, and one that does not: how far forget rows are is theirs alone."""
    how = {"stop_at": "never_seen", "max_steps": 3, "answers": "none"}
    sets = {"forget": FORGET, "holdout": HOLDOUT}
    told = never_seen_model.told(never_seen(), config(tmp_path, "ngdiff", **how), tokenizer(), sets)
    brought = build(tmp_path, "ngdiff", forget_dataset=told["forget"], holdout_dataset=told["holdout"], **how)
    asked = build(tmp_path, "ngdiff", holdout_dataset=HOLDOUT, never_seen_model=never_seen(), **how)
    assert "target_logps" not in brought.train_dataset[0]["holdout"]
    for trainer in (brought, asked):
        trainer.train()
    first, second = ([line["distance"] for line in trainer.state.log_history if "distance" in line] for trainer in (brought, asked))
    assert len(first) == 3
    assert first == pytest.approx(second, rel=1e-5)


def test_what_a_never_seen_models_inner_layers_recall_is_where_this_models_may_stand(tmp_path):
    """Asked of a model, and of rows that bring it, as the command line gives them: by hand, of two layers the first is the only inner one."""
    how = {"stop_at": "never_seen", "answers": "none", "logit_lens_coef": 0.3}
    told = never_seen_model.told(never_seen(), config(tmp_path, "mollm", **how), tokenizer(), {"forget": FORGET})["forget"]
    model, expected = never_seen(), []
    for row in FORGET:
        ids, labels = (torch.tensor(row[name]) for name in ("input_ids", "labels"))
        logits = model.lm_head(model.model.norm(model(ids[None], output_hidden_states=True).hidden_states[1]))[0, :-1]
        likeliest = logits.topk(10).indices
        answer = (labels[1:] != -100) & (labels[1:] != tokenizer().eos_token_id)
        expected.append((likeliest == labels[1:, None]).any(-1)[answer].double().mean().item())
    for brought in ({"never_seen_model": never_seen()}, {"forget_dataset": told}):
        trainer = build(tmp_path, "mollm", **brought, **how)
        assert trainer.early_stop.inner == pytest.approx(np.mean(expected))
        assert "target_inner" not in trainer.train_dataset[0]["forget"]
    assert build(tmp_path, "mollm", never_seen_model=never_seen(), **how | {"logit_lens_coef": 0.0}).early_stop.inner is None


@torch.no_grad()
def mean_logp(model, rows, begin=None):
    """Mean over rows of that of their labels, one forward a row; with `begin` as the first token of each."""
    means = []
    for row in rows:
        ids = [row["input_ids"][0] if begin is None else begin, *row["input_ids"][1:]]
        logps = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        means.append(np.mean([logps[place, label].item() for place, label in enumerate(row["labels"][1:]) if label != -100]))
    return np.mean(means)


@pytest.mark.parametrize("told", [True, False], ids=["never-seen", "holdout alone"])
def test_targets_of_changed_prompts_are_as_much_lower_as_unseen_rows_are_less_likely_there(told, tmp_path, monkeypatch):
    """By how much forget rows are under a never-seen model; else by how much the holdout's are under the model itself."""
    model, rows = (never_seen(), FORGET) if told else (tiny_llama(), HOLDOUT)
    how = {"stop_at": "never_seen", "never_seen_model": never_seen()} if told else {"stop_at": "auto"}
    unchanged = mean_logp(model, rows)
    factors = {token: mean_logp(model, rows, token) / unchanged for token in range(3, 40, 2)}
    for token in (max(factors, key=factors.get), min(factors, key=factors.get)):
        monkeypatch.setattr(
            PromptDropout, "__call__", lambda self, row, rng, begin=token: row | {"input_ids": [begin, *row["input_ids"][1:]]}
        )
        trainer = build(tmp_path, "ngdiff", holdout_dataset=HOLDOUT, answers="none", prompt_dropout=0.3, **how)
        assert trainer.train_dataset.dropout["forget"].target_scale == pytest.approx(max(1.0, factors[token]), rel=1e-4)
    assert max(factors.values()) > 1.005 > 1.0 > min(factors.values())  # what would raise targets, does not


def test_a_row_is_no_longer_than_the_models_context():
    config = tiny_llama().config  # 64 positions
    assert datasets.row_length(config, 1024) == 64
    assert datasets.row_length(config, 32) == 32
    del config.max_position_embeddings
    assert datasets.row_length(config, 1024) == 1024


# ------------------------------------------------------------------------------------------------------------------- the holdout is split


@settings(deadline=None)
@given(st.integers(1, 400))
def test_of_a_holdout_a_third_is_held_and_the_rest_is_looked_at_and_of_a_small_one_nothing_is_held(rows):
    held, seen = holdout_split(rows, "reference")
    assert sorted(held + seen) == list(range(rows))
    assert (held, seen) == (sorted(held), sorted(seen))
    if rows < 24:
        assert held == []
    else:
        assert len(held) == pytest.approx(rows / 3, abs=2)
        runs = 1 + sum(later - earlier > 1 for earlier, later in pairwise(held))
        assert runs == 2  # blocks: rows of one author mostly stand together
        assert held[0] == 0
        assert held[-1] < rows * 2 / 3 + 1
    assert holdout_split(rows, "none") == ([], list(range(rows)))


@pytest.mark.parametrize("holdout_kl", ["reference", "teacher", "none"])
@pytest.mark.parametrize("rows", [9, 30])
def test_what_is_evaluated_of_a_holdout_is_what_a_run_has_not_trained_on(rows, holdout_kl, tmp_path):
    numbered = Dataset.from_list([{"text": f"w{3 + n} w{4 + n} w{5 + n}"} for n in range(rows)])
    args = config(tmp_path, "mean_teacher", holdout_kl=holdout_kl)
    probes = datasets.tokenize(args, tokenizer(), 64, {"forget": FORGET, "retain": RETAIN, "holdout": numbered})
    trainer = build(tmp_path, "mean_teacher", holdout_dataset=probes["holdout"].rows, holdout_kl=holdout_kl)
    evaluated = list(datasets.evaluated(args, probes)["holdout"].rows["input_ids"])
    assert list(trainer.sets["holdout"]["input_ids"]) == evaluated
    held = [] if "holdout" not in trainer.trained else list(trainer.trained["holdout"]["input_ids"])
    assert bool(held) == (rows >= 24 and holdout_kl != "none")
    assert sorted(evaluated + held) == sorted(probes["holdout"].rows["input_ids"])
    drawn = {tuple(trainer.train_dataset[n]["holdout"]["input_ids"]) for n in range(60)} if held else set()
    assert drawn == set(map(tuple, held))
    assert datasets.evaluated(args, {"forget": probes["forget"]}) == {"forget": probes["forget"]}


@pytest.mark.parametrize(("holdout", "neutral"), [(30, 12), (30, 5), (9, 4), (0, 4), (30, 0)])
def test_texts_of_the_models_own_are_held_beside_the_holdout(holdout, neutral, tmp_path, monkeypatch):
    """As often as the holdout's."""
    monkeypatch.setattr(self_retain, "NEW", 0.0)  # a model that has learned nothing writes of nothing else either
    monkeypatch.setattr(self_retain, "FEWEST", 0.0)
    numbered = Dataset.from_list([{"text": f"w{3 + n} w{4 + n} w{5 + n}"} for n in range(holdout)]) if holdout else None
    changes = {"stop_at": "never_seen", "never_seen_model": never_seen(), "holdout_dataset": numbered, "neutral_rows": neutral}
    trainer = build(tmp_path, "ngdiff", **changes)
    again = build(tmp_path, "ngdiff", **changes)
    held = [tuple(row["input_ids"]) for row in trainer.trained["holdout"]]
    assert held == [tuple(row["input_ids"]) for row in again.trained["holdout"]], "the seed decides the texts"
    own = (
        {tuple(row) for row in datasets.tokenize(trainer.args, tokenizer(), 64, {"forget": FORGET, "x": numbered})["x"].rows["input_ids"]}
        if holdout
        else set()
    )
    theirs, written = [row for row in held if row in own], [row for row in held if row not in own]
    assert bool(theirs) == (holdout >= 24)
    assert neutral <= len(set(written)) <= 2 * neutral  # a text that is longer when it is read again becomes two rows
    if theirs and written:
        assert 0.6 < len(theirs) / len(written) < 1.7


def test_a_set_of_the_users_may_be_called_neutral(tmp_path):
    trainer = build(tmp_path, "ngdiff", eval_dataset={"neutral": RETAIN}, holdout_dataset=HOLDOUT)
    assert "neutral" in trainer.sets
    assert set(trainer.trained) == {"forget", "retain"}


def test_other_answers_that_tokenized_rows_bring_are_theirs(tmp_path):
    """As the command line gives them, which has asked before; asked again, they would be others."""
    for changes in ({}, {"stop_at": "never_seen", "never_seen_model": never_seen()}, {"stop_at": "auto", "holdout_dataset": HOLDOUT}):
        trainer = build(tmp_path, "ngdiff", forget_dataset=PREFERRED, answers="natural", **changes)
        assert list(trainer.trained["answers"]["input_ids"]) == [row["input_ids"] for row in PREFERRED["alternate"]]
