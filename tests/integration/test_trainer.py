"""What a run guarantees besides its mathematics: what moves, what is kept, what is refused."""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset, DatasetDict
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.hf_api import RepoUrl
from peft import LoraConfig, PeftModel
from test_trainer_equivalence import FORGET, LORA, RETAIN, config, difference, flat, forget_rows, rows, tokenizer, trained
from thinned import thinned
from tiny_models import tiny_llama
from transformers import TrainerCallback

from peft_unlearn import UnlearnTrainer, data
from peft_unlearn.config import methods
from peft_unlearn.config.methods import METHODS
from peft_unlearn.model import adapters
from peft_unlearn.util.errors import UserError


def build(folder, method="graddiff", model=None, **changes) -> UnlearnTrainer:
    given = ("forget_dataset", "retain_dataset", "eval_dataset", "holdout_dataset", "forgotten_datasets", "never_seen_model", "peft_config")
    sets = {"forget_dataset": forget_rows(method), "retain_dataset": RETAIN, "peft_config": LORA} | {
        k: changes.pop(k) for k in given if k in changes
    }
    return UnlearnTrainer(model or tiny_llama(), config(folder, method, **changes), processing_class=tokenizer(), **sets)


class Watch(TrainerCallback):
    """Student and teacher after every step."""

    def __init__(self, trainer):
        self.trainer, self.students, self.teachers = trainer, [], []
        trainer.add_callback(self)

    def on_step_end(self, *args, **kwargs):
        self.students.append(flat(self.trainer.student).clone())
        self.teachers.append(flat(self.trainer.teacher.parameters).clone() if self.trainer.teacher else None)


@pytest.mark.parametrize("method", thinned(METHODS, every=2))
def test_every_adapter_parameter_moves_and_nothing_else(method, tmp_path):
    trainer = build(tmp_path, method, forget_floor=0.0)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    ours = {n for n in before if ".default." in n or ".teacher." in n}
    if method == "rmu":
        ours = {n for n in ours if ".layers.0." in n}  # a quarter of two layers is the first: what is above it has no gradient
    assert moved == ours
    assert any("lora_A.default" in n for n in moved)


def test_the_saved_folder_gives_the_students_numbers_under_plain_peft(tmp_path):
    trainer = trained(tmp_path / "run", "mean_teacher", save_strategy="steps", save_steps=2)
    trainer.save_model()
    kept = {p.name for p in (tmp_path / "run").iterdir() if p.is_file()}
    assert kept == {"adapter_config.json", "adapter_model.safetensors", "README.md", "tokenizer.json", "tokenizer_config.json"}
    ids = torch.arange(3, 15).view(2, 6)
    fresh = PeftModel.from_pretrained(tiny_llama(), tmp_path / "run")
    trainer.model.eval()
    assert torch.equal(fresh(ids).logits, trainer.model(ids).logits)


def test_runs_are_reproducible_and_depend_on_the_seed(tmp_path):
    def run(seed):
        trainer = build(tmp_path, "ngdiff", seed=seed)
        trainer.train()
        return flat(trainer.student)

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_without_a_retain_set_the_model_writes_one(tmp_path, monkeypatch):
    words = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "completion": f"w{i + 2} w{i + 3}"} for i in range(5, 21)])
    trainer = build(tmp_path, forget_dataset=words, retain_dataset=None, self_retain_rows=12, max_length=24)
    assert len(trainer.sets["retain"]) >= 12  # a long one is several rows
    trainer.train()
    monkeypatch.setattr(data, "write_rows", lambda *arguments, **settings: [])
    with pytest.raises(UserError, match="^retain_dataset: the model writes no text of its own"):
        build(tmp_path, forget_dataset=words, retain_dataset=None)


def test_text_rows_and_named_sets_are_tokenized_and_evaluated(tmp_path):
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
        (
            {"forget_dataset": "rows.jsonl"},
            "^forget_dataset: a Dataset is needed and this is a str, load a file with datasets.load_dataset",
        ),
        ({"retain_dataset": "rows.jsonl"}, "^retain_dataset: a Dataset is needed and this is a str"),
        ({"holdout_dataset": DatasetDict(train=RETAIN)}, "^holdout_dataset: a Dataset is needed and this is a DatasetDict"),
        ({"eval_dataset": {"facts": "rows.jsonl"}}, "^eval_dataset.facts: a Dataset is needed and this is a str"),
        ({"eval_dataset": "rows.jsonl"}, "^eval_dataset: a mapping of names to Datasets is needed"),
        ({"eval_dataset": RETAIN}, "^eval_dataset: a mapping of names to Datasets is needed"),
        ({"model": "missing-folder"}, "model_name_or_path.*missing-folder"),
    ],
)
def test_bad_arguments_are_named(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        build(tmp_path, **changes)


def test_a_loaded_model_cannot_be_quantized_again(tmp_path):
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


def test_sets_smaller_than_a_batch_train_for_all_steps(tmp_path):
    small = build(tmp_path, "mean_teacher", forget_dataset=rows(3, 3), retain_dataset=rows(1, 4), accumulation=4, max_steps=20)
    small.train()
    assert small.state.global_step == 20
    assert torch.isfinite(flat(small.student)).all()


def test_the_last_step_of_an_epoch_averages_over_what_it_has(tmp_path):
    """10 rows: batches of 2 accumulated over 4 give steps of 8 and 2 rows, as batches of 8 do."""
    split = build(tmp_path, "mollm", forget_dataset=rows(10, 3), size=2, accumulation=4, max_steps=4)
    whole = build(tmp_path, "mollm", forget_dataset=rows(10, 3), size=8, max_steps=4)
    for trainer in (split, whole):
        trainer.train()
    assert difference(split.student, whole.student) < 1e-6


def test_what_is_logged_does_not_depend_on_accumulation(tmp_path):
    lines = []
    for size, accumulation in ((8, 1), (2, 4)):
        trainer = build(tmp_path, "mean_teacher", size=size, accumulation=accumulation)
        trainer.train()
        lines.append(trainer.state.log_history[0])
    names = ["loss", "loss/forget", "p/forget", "grad_norm", "grad_norm/forget"]
    assert [lines[1][name] for name in names] == pytest.approx([lines[0][name] for name in names], rel=1e-5)


@pytest.mark.parametrize("combine", ["weighted_sum", "ngdiff", "mollm"])
def test_a_run_with_nothing_left_to_forget_stays_where_it_is(combine, tmp_path):
    changes = {"combine": combine, "retain_loss": "none", "forget_floor": 1.0, "max_grad_norm": 1.0, "teacher_decay": 0.9, "auto_lr": True}
    trainer = build(tmp_path, **changes)
    start, teacher = flat(trainer.student).clone(), flat(trainer.teacher.parameters).clone()
    trainer.train()
    assert torch.equal(flat(trainer.student), start)
    assert torch.equal(flat(trainer.teacher.parameters), teacher)
    assert [line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line] == [0.0] * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forget_dataset": Dataset.from_list([{"input_ids": [5, 6], "labels": [5, -100]}])}, "^forget_dataset: row 1 has no label"),
        ({"retain_dataset": Dataset.from_list([{"input_ids": [5] * 80, "labels": [5] * 80}])}, "^retain_dataset: row 1 has 80 tokens.* 64"),
        ({"retain_dataset": Dataset.from_dict({"input_ids": [], "labels": []})}, "^retain_dataset: it is empty"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_named(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        build(tmp_path, **changes)


@pytest.mark.parametrize("name", ["retain_dataset", "holdout_dataset"])
@pytest.mark.parametrize("tokenized", ["neither", "forget", "other", "both"])
def test_forget_rows_in_another_set_are_refused_as_on_the_command_line(name, tokenized, tmp_path, caplog):
    """As text of any format where both sets are text, so that a row is the user's own; by tokens, which were perhaps cut, there is a warning."""
    words = [f"w{i} w{i + 1} w{i + 2}" for i in range(5, 9)]
    forget, other = Dataset.from_list([{"text": text} for text in words]), Dataset.from_list([{"text": words[2]}, {"text": "w40 w41"}])
    if tokenized == "neither":
        other = Dataset.from_list([{"prompt": "w40", "completion": " w41"}, {"prompt": "w7 w8", "completion": " w9"}])
    if tokenized in ("forget", "both"):
        forget = data.tokenize(forget, tokenizer(), 64, name="forget").rows
    if tokenized in ("other", "both"):
        other = data.tokenize(other, tokenizer(), 64, name="other").rows
    said = f"forget_dataset: row 3 also stands in {name} as row {2 if tokenized == 'neither' else 1}, take it out of one of the two."
    if tokenized == "neither":
        with pytest.raises(UserError, match=f"^{said}$"):
            build(tmp_path, forget_dataset=forget, **{name: other})
    else:
        build(tmp_path, forget_dataset=forget, **{name: other})
        assert f"Warning: as they are tokenized, {said}" in caplog.messages


def test_of_a_text_that_is_split_the_row_is_named_and_not_the_piece(tmp_path):
    long = {"text": " ".join(["w5 w6 w7"] * 50)}
    with pytest.raises(UserError, match="^forget_dataset: row 2 also stands in retain_dataset as row 2, "):
        build(
            tmp_path,
            forget_dataset=Dataset.from_list([long, {"text": "w8 w9"}]),
            retain_dataset=Dataset.from_list([{"text": long["text"] + " w9"}, {"text": "w8  w9"}]),
            max_length=16,
        )


def test_reentrant_checkpointing_takes_the_same_steps(tmp_path):
    changes = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}, "forget_floor": 0.0}
    checkpointed, plain = trained(tmp_path / "a", "mollm", **changes), trained(tmp_path / "b", "mollm", forget_floor=0.0)
    assert difference(checkpointed.student, plain.student) < 1e-6


@pytest.mark.parametrize("method", ["mollm", "idkdpo", "npo"])
def test_a_run_on_packed_rows_ends_where_one_on_padded_rows_does(method, tmp_path):
    """Eager attention knows no packed rows."""
    padded_model = tiny_llama()
    padded_model.set_attn_implementation("eager")
    changes = {"size": 4, "accumulation": 2} | ({"answers": "column"} if method == "idkdpo" else {})
    packed, padded = build(tmp_path / "a", method, **changes), build(tmp_path / "b", method, padded_model, **changes)
    for run in (packed, padded):
        run.train()
    assert difference(packed.student, padded.student) < 1e-6
    shares = [{line["padding"] for line in run.state.log_history if "padding" in line} for run in (packed, padded)]
    assert shares[0] == {0.0}
    assert all(0 < share < 1 for share in shares[1])
    assert packed.model.config._attn_implementation == "sdpa"


# ----------------------------------------------------------------------------------------------------------- Trainer's own settings


def test_evaluation_on_start_and_token_counts(tmp_path):
    trainer = build(tmp_path, "npo", eval_on_start=True, include_num_input_tokens_seen="non_padding", size=4, max_steps=4)
    trainer.train()
    assert "eval_forget_loss" in trainer.state.log_history[0]
    pairs = [trainer.train_dataset[n] for n in range(16)]
    assert trainer.state.num_input_tokens_seen == sum(len(pair[s]["input_ids"]) for pair in pairs for s in ("forget", "retain"))


def test_the_best_checkpoints_student_comes_back_at_the_end(tmp_path):
    torch.manual_seed(0)
    PeftModel(tiny_llama(), LORA).save_pretrained(tmp_path / "mine")
    stacked = PeftModel.from_pretrained(tiny_llama(), tmp_path / "mine", adapter_name="finetune")
    changes = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": True}
    metric = {"metric_for_best_model": "retain_loss", "greater_is_better": True, "retain_loss": "nll", "max_steps": 3}
    trainer = build(tmp_path / "run", "ngdiff", stacked, **changes, **metric)
    finetune = flat(adapters.adapter_parameters(trainer.model, "finetune")).clone()
    watch = Watch(trainer)
    trainer.train()
    losses = [line["eval_retain_loss"] for line in trainer.state.log_history if "eval_retain_loss" in line]
    best = losses.index(max(losses))
    assert best < 2  # or the last one would come back by itself
    assert torch.equal(flat(trainer.student), watch.students[best])
    assert torch.equal(flat(adapters.adapter_parameters(trainer.model, "finetune")), finetune)


def test_a_checkpoint_without_a_state_cannot_be_resumed(tmp_path):
    build(tmp_path, save_strategy="steps", save_steps=2, save_only_model=True).train()
    with pytest.raises(UserError, match="resume_from_checkpoint: .*checkpoint-2 is not whole, for it holds an adapter only"):
        build(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_the_given_configuration_of_the_adapter_is_left_as_it_was(tmp_path):
    before = LORA.to_dict()
    build(tmp_path)
    assert LORA.to_dict() == before


@pytest.mark.parametrize("private", [True, None, False])
def test_saving_and_pushing_uploads_the_student_and_a_card_and_nothing_else(private, tmp_path, monkeypatch):
    made, uploaded = [], {}

    class Info:
        def __init__(self, private):
            self.private = private

    monkeypatch.setattr(HfApi, "create_repo", lambda api, repo, *, private: made.append(private) or RepoUrl(f"https://hf.co/{repo}"))
    monkeypatch.setattr(HfApi, "repo_info", lambda api, repo: Info(made[-1]))
    monkeypatch.setattr(HfApi, "list_repo_files", lambda *_, **__: [])
    monkeypatch.setattr(
        HfApi,
        "create_commit",
        lambda api, repo, operations, **kwargs: uploaded.update({o.path_in_repo: o.path_or_fileobj for o in operations}),
    )
    hub = {"push_to_hub": True, "hub_model_id": "someone/forgets", "hub_private_repo": private, "hub_token": "hf_x"}
    trainer = build(tmp_path / "run", "mean_teacher", save_strategy="steps", save_steps=2, **hub)
    trainer.train()
    assert made == []  # no repository for a run that is not finished
    trainer.save_model()
    assert made == [private is not False]
    tokenizers = {"tokenizer.json", "tokenizer_config.json"}
    assert set(uploaded) == {"adapter_config.json", "adapter_model.safetensors", "README.md", *tokenizers}
    card = ModelCard(uploaded["README.md"].decode())
    assert {"unlearning", "mean_teacher"} <= set(card.data.tags)
    assert "| `max_steps` | 4 |" in card.text
    assert "| `r` | 4 |" in card.text
    assert "nlul" in card.text
    trainer.push_to_hub(private=True)
    assert made[-1] is True


def test_learning_rate_left_out_goes_by_the_size_of_the_base(tmp_path):
    assert build(tmp_path / "small").args.learning_rate == 1e-3
    assert build(tmp_path / "given", learning_rate=2e-4).args.learning_rate == 2e-4
    falls = build(tmp_path / "falls", "mollm", lr_scheduler_type="linear").args.learning_rate
    assert falls == methods.learning_rate(100_000, falling=True) > 1e-3  # the mean of a rate that falls to 0 is half of where it starts
    assert [methods.learning_rate(n) for n in (260_032, 1_000_000)] == [1e-3, 1e-3]
    assert methods.learning_rate(1_240_000_000) == pytest.approx(1.7e-4, rel=0.03)
    assert methods.learning_rate(8_030_000_000) == pytest.approx(1.06e-4, rel=0.01)


@pytest.mark.parametrize("method", ["ngdiff", "mean_teacher", "mollm"])
def test_a_step_is_taken_in_train_mode_whatever_mode_the_model_came_in(method, tmp_path):
    trainer = build(tmp_path, method, gradient_checkpointing=True)
    trainer.model.get_base_model().eval()  # as from_pretrained leaves it, under a wrapper that is in train mode
    assert trainer.model.training
    modes, objective = [], trainer.objectives[0]

    def watched(scores, anchor):
        modes.append({module.training for module in trainer.model.modules()})
        return objective.function(scores, anchor)

    trainer.objectives[0] = replace(objective, function=watched)
    trainer.train()
    assert modes
    assert all(mode == {True} for mode in modes)
