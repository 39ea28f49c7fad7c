"""What baselines and early stopping ask of the trainer: alternates, layers, a bound, a negated adapter, targets, and what is refused."""

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from plain_loop import batch, divergence, nlls
from test_trainer import build
from test_trainer_equivalence import FORGET, HOLDOUT, PREFERRED, difference, flat, never_seen, trained
from tiny_models import tiny_llama

from peft_unlearn.model import adapters
from peft_unlearn.util.errors import UserError


@pytest.mark.parametrize(("layer", "layers"), [(None, {"0"}), (1, {"0"}), (2, {"0", "1"})])
def test_rmu_trains_the_layers_below_the_one_it_reads(layer, layers, tmp_path):
    trainer = build(tmp_path, "rmu", hidden_layer=layer)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    assert {n.split(".layers.")[1][0] for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])} == layers


def test_a_negated_adapter_is_the_one_that_learnt_the_forget_set_subtracted(tmp_path):
    negated, learnt = (trained(tmp_path, "task_arithmetic", negate=negate, learning_rate=5e-2, max_steps=12) for negate in (True, False))
    ids = torch.arange(3, 15).view(2, 6)
    for name, module in learnt.model.named_modules():
        if name.endswith("q_proj"):
            delta, other = (m.get_delta_weight("default") for m in (module, negated.model.get_submodule(name)))
            assert torch.equal(delta, -other)
            assert delta.abs().max() > 0
    with adapters.view(learnt.model, "reference"):
        reference = learnt.model(ids).logits
    for trainer in (negated, learnt):
        trainer.save_model()
        saved = PeftModel.from_pretrained(tiny_llama(), tmp_path)
        assert torch.equal(saved(ids).logits, trainer.model.eval()(ids).logits)
        assert not torch.allclose(saved(ids).logits, reference, atol=1e-3)
    before, after = (t.evaluate()["eval_forget_loss"] for t in (learnt, negated))
    assert after > before


def test_what_is_preferred_comes_from_the_text_of_the_rows(tmp_path):
    """A column of alternates, or refusals, tokenized as the forget answers are."""
    words = Dataset.from_list(
        [{"question": f"w{i}", "answer": f"w{i + 1}", "alternate_answer": f"w{i + 2} w{i + 3}"} for i in range(30, 46)]
    )
    column = build(tmp_path, "dpo", forget_dataset=words, max_length=64)
    for n in range(16):
        row = column.train_dataset[n]["forget"]
        prompt = row["input_ids"][:-2]
        first = row["input_ids"][-2]
        assert row["labels"] == [-100] * len(prompt) + [first, 2]
        assert row["alternate"]["input_ids"] == [*prompt, first + 1, first + 2, 2]
        assert row["alternate"]["labels"] == [-100] * len(prompt) + [first + 1, first + 2, 2]
    column.train()
    refusing = build(tmp_path, "idkdpo", forget_dataset=words, max_length=64)
    rows = [refusing.train_dataset[n]["forget"] for n in range(16)]
    assert all(row["alternate"]["input_ids"][: row["labels"].count(-100)] == row["input_ids"][: row["labels"].count(-100)] for row in rows)
    assert len({tuple(row["alternate"]["input_ids"][row["labels"].count(-100) :]) for row in rows}) > 3


@pytest.mark.parametrize("changes", [{"retain_bound": 0.0}, {"retain_bound": 100.0}])
def test_a_bound_on_the_retain_loss_raises_its_weight_while_it_is_exceeded(changes, tmp_path):
    trainer = build(tmp_path, "pdu", lagrangian_rate=0.1, **changes)
    trainer.train()
    weights = [line["weight/retain"] for line in trainer.state.log_history if "weight/retain" in line]
    losses = [line["loss/retain"] for line in trainer.state.log_history if "loss/retain" in line]
    assert weights[0] == 1.0  # retain_coef
    expected = [1.0]
    for loss in losses[:-1]:
        expected.append(max(0.0, expected[-1] + 0.1 * (loss - changes["retain_bound"])))
    assert weights == pytest.approx(expected, rel=1e-5)
    assert (weights[-1] > 2) if changes["retain_bound"] == 0.0 else (weights[1:] == [0.0] * 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stop_at": "auto"}, "^stop_at: 'auto' estimates from rows .* give a holdout_dataset"),
        ({"stop_at": "never_seen"}, "^stop_at: 'never_seen' needs a model that never saw the forget set, give never_seen_model"),
        ({"stop_at": "never_seen", "method": "task_arithmetic"}, "^stop_at: a negated adapter"),
        ({"retain_bound": 0.1, "retain_loss": "none"}, "^retain_bound: there is no retain loss"),
        ({"retain_bound": 0.1, "method": "mgda"}, "^retain_bound: under mgda"),
        ({"forget_loss": "dpo"}, "^answers: dpo needs answers that it prefers, write natural, refuse or column"),
        ({"answers": "column"}, "^answers: column needs text, give the tokenized forget rows a column alternate"),
        ({"answers": "refuse"}, "^answers: refuse needs text, give the tokenized forget rows a column alternate"),
        (
            {"answers": "column", "forget_dataset": Dataset.from_list([{"text": "w5 w6 w7"}])},
            "^forget_dataset: its rows are plain texts, which ask for no answer",
        ),
        (
            {"method": "idkdpo", "forget_dataset": Dataset.from_list([{"text": "w5 w6 w7"}])},
            "^forget_dataset: its rows are plain texts, which ask for no answer",
        ),
        (
            {"method": "dpo", "forget_dataset": Dataset.from_list([{"question": "w5", "answer": "w6"}])},
            "^forget_dataset: there is no column alternate_answer",
        ),
    ],
)
def test_settings_that_the_data_cannot_meet_are_named(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        build(tmp_path, **changes)


def with_targets(dataset: Dataset) -> Dataset:
    """What the never-seen model says of each label, in the place of the label."""
    found = [(-nll).tolist() for nll in nlls(never_seen(), list(dataset))]
    return dataset.add_column("target_logps", [[0.0] * row["labels"].count(-100) + told for row, told in zip(dataset, found, strict=True)])


def test_rows_may_bring_the_targets_that_a_model_would_tell(tmp_path):
    told = build(tmp_path, stop_at="never_seen", never_seen_model=never_seen(), holdout_dataset=HOLDOUT)
    brought = build(tmp_path, stop_at="never_seen", forget_dataset=with_targets(FORGET), holdout_dataset=with_targets(HOLDOUT))
    for trainer in (told, brought):
        trainer.train()
    assert difference(brought.student, told.student) < 1e-6
    assert brought.early_stop.holdout_shift == pytest.approx(told.early_stop.holdout_shift, rel=1e-5)
    assert brought.early_stop.holdout_shift != 1.0


def test_a_holdout_is_a_stream_of_its_own_and_held_where_it_was(tmp_path):
    changes = {"learning_rate": 5e-3, "max_steps": 12, "holdout_dataset": HOLDOUT}
    held, free = (build(tmp_path, kl_coef=100.0, holdout_kl=anchor, **changes) for anchor in ("reference", "none"))
    for trainer in (held, free):
        trainer.train()
    line = held.state.log_history[1]
    assert {"loss/holdout", "p/holdout", "grad_norm/holdout", "weight/holdout", "cosine/forget_holdout"} <= set(line)
    assert not any("holdout" in name for name in free.state.log_history[1])
    there, reference = batch(list(held.trained["holdout"])), tiny_llama()
    moved = [divergence("kl", trainer.model.eval(), reference, there).item() for trainer in (held, free)]
    assert moved[0] < 0.2 * moved[1]


@pytest.mark.parametrize(
    "changes", [{"method": "ngdiff", "stop_at": "never_seen", "neutral_rows": 0}, {"method": "mean_teacher", "holdout_kl": "teacher"}]
)
def test_without_a_holdout_and_neutral_texts_there_is_none_to_hold(changes, tmp_path):
    known = {"never_seen_model": never_seen()} if "stop_at" in changes else {}
    left, without = (build(tmp_path, **known, **asked) for asked in (changes, {**changes, "holdout_kl": "none"}))
    assert left.args.holdout_kl == "none"
    assert "holdout" not in {o.name for o in left.objectives}
    assert "holdout" not in left.train_dataset[0]
    for trainer in (left, without):
        trainer.train()
    assert torch.equal(flat(left.student), flat(without.student))


def test_rows_that_bring_alternates_train_as_they_are_under_a_loss_without(tmp_path):
    with_them, without = (build(tmp_path, "npo", forget_dataset=dataset) for dataset in (PREFERRED, FORGET))
    for trainer in (with_them, without):
        trainer.train()
    assert torch.equal(flat(with_them.student), flat(without.student))
