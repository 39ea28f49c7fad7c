"""The one path from sets to tokenized rows: what a trainer trains on is what is checked without a model."""

import math

import pytest
from datasets import Dataset
from test_trainer import build
from test_trainer_equivalence import FORGET, HOLDOUT, LORA, RETAIN, config, never_seen, tokenizer
from tiny_models import tiny_llama

from peft_unlearn import UnlearnTrainer
from peft_unlearn.training import datasets, early_stop
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


def test_targets_of_the_holdout_are_read_and_not_trained_on(tmp_path, monkeypatch):
    """Of a holdout that brings its targets, as the command line gives it, and one that does not: how far forget rows are is theirs alone."""
    monkeypatch.setattr(early_stop, "UNKNOWN", math.inf)  # a random model knows nothing, and is trained all the same
    how = {"stop_at": "never_seen", "max_steps": 3, "answers": "none"}
    told = datasets.targets.of_never_seen(never_seen(), tokenizer(), {"forget": FORGET, "holdout": HOLDOUT}, 16)
    brought = build(tmp_path, "ngdiff", forget_dataset=told["forget"], holdout_dataset=told["holdout"], **how)
    asked = build(tmp_path, "ngdiff", holdout_dataset=HOLDOUT, never_seen_model=never_seen(), **how)
    assert "target_logps" not in brought.train_dataset[0]["holdout"]
    for trainer in (brought, asked):
        trainer.train()
    first, second = ([line["distance"] for line in trainer.state.log_history if "distance" in line] for trainer in (brought, asked))
    assert len(first) == 3
    assert first == pytest.approx(second, rel=1e-5)


def test_a_row_is_no_longer_than_the_models_context():
    config = tiny_llama().config  # 64 positions
    assert datasets.row_length(config, 1024) == 64
    assert datasets.row_length(config, 32) == 32
    del config.max_position_embeddings
    assert datasets.row_length(config, 1024) == 1024
