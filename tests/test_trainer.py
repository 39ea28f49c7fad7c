"""What a run guarantees besides its mathematics: what moves, what is kept, what is refused."""

import math

import pytest
import torch
from conftest import tiny_llama
from datasets import Dataset
from peft import LoraConfig, PeftModel
from test_trainer_equivalence import FORGET, LORA, RETAIN, config, flat, tokenizer, trained

from peft_unlearn import UnlearnTrainer, adapters
from peft_unlearn.errors import UserError
from peft_unlearn.methods import METHODS


def build(folder, method="graddiff", model=None, **changes) -> UnlearnTrainer:
    data = {"forget_dataset": FORGET, "retain_dataset": RETAIN} | {
        k: changes.pop(k) for k in ("forget_dataset", "retain_dataset") if k in changes
    }
    return UnlearnTrainer(model or tiny_llama(), config(folder, method, **changes), processing_class=tokenizer(), peft_config=LORA, **data)


@pytest.mark.parametrize("method", METHODS)
def test_every_adapter_parameter_moves_and_nothing_else(method, tmp_path):
    trainer = build(tmp_path, method, forget_floor=0.0)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    ours = {n for n in before if ".default." in n or ".teacher." in n}
    assert moved == ours
    assert any("lora_A.default" in n for n in moved)


def test_the_saved_folder_gives_the_students_numbers_under_plain_peft(tmp_path):
    trainer = trained(tmp_path / "run", "mean_teacher", save_strategy="steps", save_steps=2)
    trainer.save_model()
    kept = {p.name for p in (tmp_path / "run").iterdir() if p.is_file()}
    assert kept == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    ids = torch.arange(3, 15).view(2, 6)
    fresh = PeftModel.from_pretrained(tiny_llama(), tmp_path / "run")
    trainer.model.eval()
    assert torch.equal(fresh(ids).logits, trainer.model(ids).logits)


@pytest.mark.parametrize("method", ["ngdiff", "mean_teacher"])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_adapter(method, tmp_path, monkeypatch):
    trainer = build(tmp_path, method, auto_lr=False)
    steps, objective = [], trainer.objectives[0]

    def poisoned(scores, anchor):
        steps.append(flat(trainer.student).clone())
        return objective.function(scores, anchor) * (math.nan if len(steps) == 3 else 1.0)

    trainer.objectives[0] = type(objective)(objective.name, objective.stream, objective.coef, poisoned)
    with pytest.raises(UserError, match="learning_rate.*step 3.*adapter of step 1"):
        trainer.train()
    assert torch.equal(flat(trainer.student), steps[1])  # the last adapter whose losses and gradients were finite, as step 2 found it


def test_runs_are_reproducible_and_depend_on_the_seed(tmp_path):
    def run(seed):
        trainer = build(tmp_path, "ngdiff", seed=seed)
        trainer.train()
        return flat(trainer.student)

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_without_a_retain_set_the_model_writes_one(tmp_path):
    words = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "completion": f"w{i + 2} w{i + 3}"} for i in range(5, 21)])
    trainer = build(tmp_path, forget_dataset=words, retain_dataset=None, self_retain_rows=12, max_length=24)
    assert len(trainer.sets["retain"]) == 12
    trainer.train()


def test_text_rows_and_named_sets_are_tokenised_and_evaluated(tmp_path):
    words = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "completion": f"w{i + 2} w{i + 3}"} for i in range(5, 21)])
    trainer = UnlearnTrainer(
        tiny_llama(), config(tmp_path, "npo"), words, RETAIN, {"paraphrases": words}, processing_class=tokenizer(), peft_config=LORA
    )
    found = trainer.evaluate()
    assert {f"eval_{s}_probability" for s in ("forget", "retain", "paraphrases")} <= set(found)
    assert found["eval_forget_loss"] == pytest.approx(found["eval_paraphrases_loss"], rel=1e-6)


def test_coefficients_of_zero_leave_an_objective_out_under_every_combiner(tmp_path):
    for combine in ("weighted_sum", "ngdiff", "mollm"):
        without = build(tmp_path, combine=combine, retain_loss="none", max_grad_norm=0.0)
        zero = build(tmp_path, combine=combine, retain_coef=0.0, max_grad_norm=0.0)
        for trainer in (without, zero):
            trainer.train()
        assert torch.allclose(flat(without.student), flat(zero.student), atol=1e-7)


def test_every_objective_logs_its_loss_norm_and_weight(tmp_path):
    trainer = build(tmp_path, "mollm")
    trainer.train()
    line = trainer.state.log_history[1]
    for name in ("forget", "retain", "kl"):
        assert {f"loss/{name}", f"grad_norm/{name}", f"weight/{name}"} <= set(line)
    assert {"p/forget", "cosine/forget_retain", "cosine/forget_kl"} <= set(line)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forget_dataset": None}, "forget_dataset"),
        ({"forget_dataset": Dataset.from_list([{"other": "x"}])}, "forget_dataset"),
        ({"model": "missing-folder"}, "model_name_or_path.*missing-folder"),
    ],
)
def test_bad_arguments_are_named(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        build(tmp_path, **changes)


def test_a_loaded_model_cannot_be_quantised_again(tmp_path):
    with pytest.raises(UserError, match="quantization_config"):
        UnlearnTrainer(tiny_llama(), config(tmp_path, "npo"), FORGET, RETAIN, processing_class=tokenizer(), quantization_config=object())


def test_stacked_and_continued_adapters_train(tmp_path):
    from peft import get_peft_model

    torch.manual_seed(0)
    mine = get_peft_model(tiny_llama(), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for n, p in mine.named_parameters():
        if "lora_B" in n:
            p.data.normal_(0, 0.1)
    mine.save_pretrained(tmp_path / "mine")
    kept = flat(adapters.adapter_parameters(mine))
    for name, peft_config in (("finetune", LORA), ("default", None)):
        model = PeftModel.from_pretrained(tiny_llama(), tmp_path / "mine", adapter_name=name)
        trainer = UnlearnTrainer(
            model, config(tmp_path / name, "mollm"), FORGET, RETAIN, processing_class=tokenizer(), peft_config=peft_config
        )
        trainer.train()
        anchor = "finetune" if name == "finetune" else "reference"
        assert torch.equal(flat(adapters.adapter_parameters(trainer.model, anchor)), kept)
        with adapters.view(trainer.model, "reference"):
            reference = trainer.model(torch.arange(3, 15).view(2, 6)).logits
        assert torch.allclose(reference, mine(torch.arange(3, 15).view(2, 6)).logits, atol=1e-5)
        assert not torch.equal(flat(trainer.student), kept)
