"""The settings of a run in Python: decided as a recipe decides them, on a copy that the caller never sees."""

import copy

import pytest
from datasets import Dataset
from peft import PeftModel
from test_trainer import build
from test_trainer_equivalence import FORGET, HOLDOUT, LORA, RETAIN, never_seen, tokenizer
from tiny_models import tiny_llama

from peft_unlearn import UnlearnConfig, UnlearnTrainer
from peft_unlearn.config import methods, recipe
from peft_unlearn.training import setup
from peft_unlearn.util.errors import UserError


def auto(**changes) -> UnlearnConfig:
    return UnlearnConfig("out", method="auto", use_cpu=True, disable_tqdm=True, **changes)


BROUGHT = {
    "nothing": ({}, {}),
    "a holdout": ({"holdout": True}, {"holdout_dataset": "unseen.jsonl"}),
    "a never-seen model": ({"never_seen": True}, {"never_seen_model_name_or_path": "twin"}),
    "both": ({"never_seen": True, "holdout": True}, {"never_seen_model_name_or_path": "twin", "holdout_dataset": "unseen.jsonl"}),
}
CHANGES = [
    {},
    {"max_steps": 150},  # as the method has it without stop_at
    {"num_train_epochs": 2},
    {"warmup_steps": 3},
    {"forget_loss": "ga"},
    {"stop_at": "none"},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("brought", BROUGHT)
def test_method_auto_is_decided_as_in_a_recipe(brought, changes):
    in_python, in_yaml = BROUGHT[brought]
    values = {"model_name_or_path": "m", "forget_dataset": "f.jsonl", "output_dir": "out", "use_cpu": True, "disable_tqdm": True}
    of_recipe = recipe.build({**values, "method": "auto", **in_yaml, **changes}).training
    found = setup.settings(auto(**changes), **{"never_seen": False, "holdout": False} | in_python)
    expected = setup.fitted(of_recipe, held="holdout" in in_python)
    assert setup.values(found) == setup.values(expected)


def test_what_was_changed_in_the_settings_stays_changed():
    args = auto()
    args.max_steps, args.seed = 7, 5
    found = setup.settings(args, never_seen=True, holdout=False)
    assert (found.stop_at, found.max_steps, found.seed, found.forget_loss) == ("never_seen", 7, 5, "log_odds")


def test_the_trainer_looks_for_what_can_tell_where_to_stop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a trainer makes its output folder

    def stop_at(model=None, **sets) -> str:
        lora = None if model is not None and "default" in model.peft_config else LORA
        given = {"forget_dataset": FORGET, "retain_dataset": RETAIN} | sets
        return UnlearnTrainer(
            model or tiny_llama(), auto(neutral_rows=0), processing_class=tokenizer(), peft_config=lora, **given
        ).args.stop_at

    PeftModel(tiny_llama(), LORA).save_pretrained(tmp_path)
    assert stop_at() == "none"
    assert stop_at(holdout_dataset=HOLDOUT) == "auto"
    assert stop_at(holdout_dataset=HOLDOUT, never_seen_model=never_seen()) == "never_seen"
    for name in ("finetune", "default"):
        assert stop_at(PeftModel.from_pretrained(tiny_llama(), tmp_path, adapter_name=name)) == "never_seen"
    told = FORGET.add_column("target_logps", [[-1.0] * len(row["labels"]) for row in FORGET])
    assert stop_at(forget_dataset=told) == "never_seen"


def test_the_callers_settings_stay_as_they_were_and_serve_another_model(tmp_path):
    args = UnlearnConfig(str(tmp_path), method="mean_teacher", holdout_kl="reference", use_cpu=True, disable_tqdm=True, max_steps=1)
    before = copy.deepcopy(setup.values(args))
    small, large = tiny_llama(), tiny_llama(vocab=40_000)  # 5 million parameters
    rates, sizes = [], [model.num_parameters() for model in (small, large)]  # without an adapter
    for model in (small, large):
        trainer = UnlearnTrainer(model, args, FORGET, RETAIN, processing_class=tokenizer(), peft_config=LORA)
        assert trainer.args.holdout_kl == "none"
        trainer.train()
        assert setup.values(args) == before
        rates.append(trainer.args.learning_rate)
    held = UnlearnTrainer(tiny_llama(), args, FORGET, RETAIN, holdout_dataset=HOLDOUT, processing_class=tokenizer(), peft_config=LORA)
    assert held.args.holdout_kl == "reference"
    assert rates == [methods.learning_rate(size) for size in sizes]
    assert rates[0] > rates[1]


@pytest.mark.parametrize("name", ["forget", "retain", "holdout"])
def test_a_further_set_has_a_name_of_its_own(name, tmp_path):
    with pytest.raises(UserError, match=f"^eval_dataset: '{name}' must be a name of its own"):
        build(tmp_path, eval_dataset={name: Dataset.from_list([{"text": "w5 w6"}])})
