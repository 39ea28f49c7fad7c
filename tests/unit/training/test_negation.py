"""A negated adapter against PEFT's own merge: the base is half-way between the model that learnt and the negated one, in every weight."""

import copy

import pytest
import torch
from peft import LoraConfig
from test_trainer_equivalence import FORGET, RETAIN, config, tokenizer
from tiny_models import tiny_llama

from peft_unlearn import UnlearnTrainer
from peft_unlearn.util.errors import UserError

ADAPTERS = {
    "linear layers": {"target_modules": "all-linear"},
    "orthogonal init": {"target_modules": ["q_proj", "up_proj"], "init_lora_weights": "orthogonal"},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "whole modules": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
}


def learner(folder, **changes) -> UnlearnTrainer:
    lora = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **changes)
    args = config(folder, "task_arithmetic", learning_rate=1e-2)
    return UnlearnTrainer(tiny_llama(), args, FORGET, RETAIN, processing_class=tokenizer(), peft_config=lora)


def merged(model) -> dict[str, torch.Tensor]:
    return {name: value.double() for name, value in copy.deepcopy(model).merge_and_unload().state_dict().items()}


@pytest.mark.parametrize("name", ADAPTERS)
def test_what_was_learnt_is_taken_away_from_the_base(name, tmp_path):
    trainer = learner(tmp_path, **ADAPTERS[name])
    trainer.train()
    negated = merged(trainer.model)
    trainer.negation.flip()
    learnt, base = merged(trainer.model), tiny_llama().state_dict()
    moved = set()
    for key, weight in base.items():
        torch.testing.assert_close((learnt[key] + negated[key]) / 2, weight.double(), rtol=0, atol=1e-6)
        if not torch.allclose(learnt[key], weight.double(), rtol=0, atol=1e-4):
            moved.add(key.split(".")[-2])
    wanted = ADAPTERS[name]["target_modules"], *ADAPTERS[name].get("modules_to_save", ())
    assert moved >= {part for part in (*wanted[0], *wanted[1:]) if wanted[0] != "all-linear"}


CANNOT = [({"use_dora": True}, "lora_magnitude_vector"), ({"trainable_token_indices": [5]}, "trainable_tokens_delta")]


@pytest.mark.parametrize(("changes", "kind"), CANNOT)
def test_an_adapter_that_cannot_be_subtracted_is_refused_before_training(changes, kind, tmp_path):
    with pytest.raises(UserError, match=f"^negate: the adapter's {kind} is no difference"):
        learner(tmp_path, target_modules=["q_proj"], **changes)
