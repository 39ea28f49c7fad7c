"""The trainer against an independent plain loop, over every method, batch split, checkpointing mode and base precision."""

import copy
import math
import random
from functools import cache

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from datasets import Dataset
from peft import LoraConfig
from plain_loop import train as plain_train
from thinned import thinned
from tiny_models import tiny_llama
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BitsAndBytesConfig, PreTrainedTokenizerFast

from peft_unlearn import UnlearnConfig, UnlearnTrainer
from peft_unlearn.config.methods import METHODS
from peft_unlearn.model import adapters
from peft_unlearn.training import checks, early_stop
from peft_unlearn.training.pace import Pace

STEPS = 4


def tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(64)}
    splitting = Tokenizer(models.WordLevel(words, unk_token="w3"))
    splitting.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=splitting, pad_token="w0", bos_token="w1", eos_token="w2")


def rows(n: int, seed: int) -> Dataset:
    """Ragged rows with prompts of different lengths, so that every kind of averaging gives another result."""
    rng = random.Random(seed)
    made = []
    for _ in range(n):
        prompt, answer = ([rng.randrange(3, 64) for _ in range(rng.randrange(1, 9))] for _ in range(2))
        made.append({"input_ids": [1, *prompt, *answer, 2], "labels": [-100] * (1 + len(prompt)) + [*answer, 2]})
    return Dataset.from_list(made)


def with_alternates(dataset: Dataset, seed: int) -> Dataset:
    """Each row with another answer to its own prompt, longer or shorter than the forgotten one."""
    rng = random.Random(seed)
    alternates = []
    for row in dataset:
        prompt = row["input_ids"][: row["labels"].count(-100)]
        answer = [rng.randrange(3, 64) for _ in range(rng.randrange(0, 12))]
        alternates.append({"input_ids": [*prompt, *answer, 2], "labels": [-100] * len(prompt) + [*answer, 2]})
    return dataset.add_column("alternate", alternates)


FORGET, RETAIN, HOLDOUT = rows(16, 1), rows(23, 2), rows(27, 4)  # of the holdout 9 rows are held
PREFERRED = with_alternates(FORGET, 3)
OURS = ("mean_teacher", "ngdiff", "mollm")
LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


def config(folder, method: str, *, size: int = 8, accumulation: int = 1, **changes) -> UnlearnConfig:
    return UnlearnConfig(
        str(folder),
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=1,
        # At its own 1e-8 Adam lifts the rounding of tiny gradients to full steps.
        **({"method": method, "max_steps": STEPS, "auto_lr_steps": 2, "adam_epsilon": 1e-5} | changes),
    )


def forget_rows(method: str) -> Dataset:
    return PREFERRED if METHODS[method].settings["forget_loss"] == "dpo" else FORGET


@cache
def never_seen():
    """A model that is surer, of other tokens: some labels are above what it says and some below."""
    model = tiny_llama(7)
    model.lm_head.weight.data *= 3.0
    return model


def stirred(trainer) -> None:
    """Another adapter than one whose B is 0, which leaves A without a gradient for the first step."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for p in trainer.student:
            p.data.add_(0.05 * torch.randn_like(p))
    if trainer.teacher:
        for teacher, student in zip(trainer.teacher.parameters, trainer.student, strict=True):
            teacher.data.copy_(student.data)


def trained(folder, method: str, model=None, resume_from=None, holdout=None, **changes) -> UnlearnTrainer:
    args = config(folder, method, **changes)
    trainer = UnlearnTrainer(
        model or tiny_llama(),
        args,
        forget_dataset=FORGET if args.answers == "none" else PREFERRED,
        retain_dataset=RETAIN,
        holdout_dataset=holdout,
        never_seen_model=never_seen() if args.stop_at == "never_seen" else None,
        processing_class=tokenizer(),
        peft_config=LORA,
    )
    stirred(trainer)
    trainer.start = copy.deepcopy(trainer.model)
    trainer.train(resume_from_checkpoint=resume_from and str(resume_from))
    return trainer


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


def difference(a, b) -> float:
    a, b = flat(a), flat(b)
    return ((a - b).norm() / b.norm()).item()


def plain(trainer: UnlearnTrainer):
    known = never_seen() if trainer.args.stop_at == "never_seen" else None
    holdout = trainer.sets.get("holdout")
    return plain_train(trainer.start, adapters.adapter_parameters, trainer.train_dataset, trainer.args, STEPS, 8, known, holdout)


@pytest.fixture(scope="module", autouse=True)
def early_checks():
    """Within a few steps two checks of the forget set, of which each corrects its targets however far they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "EVERY", 2)
        patch.setattr(checks, "SHARE", math.inf)
        patch.setattr(early_stop, "APPROACH", 0.01)
        patch.setattr(early_stop, "RETAIN_LOSS", 1e-4)  # the retain set is lost, and weighs more
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs on undivided batches, each trained once."""
    return cache(lambda name: trained(tmp_path_factory.mktemp("whole"), **MIXES[name]))


HELD = {"holdout": HOLDOUT, "holdout_kl": "reference", "kl_coef": 0.5}
FOUR, FIVE = "four objectives under MOLLM", "five objectives under MOLLM"
ALL = {"prompt_dropout": 0.3, "logit_lens_coef": 0.3}  # what comes with targets
FLOOR = 0.014  # near the rows' probabilities under the random model (1 in 64), so that some have left and some stay

MIXES = {name: {"method": name, "forget_floor": FLOOR} for name in METHODS} | {
    "mean teacher, SGD, damping": {
        "method": "mean_teacher",
        "optim": "sgd",
        "optim_args": "momentum=0.9",
        "learning_rate": 0.05,
        "damping": 5.0,
        "forget_floor": 0.0,
    },
    "QKL": {"method": "mean_teacher", "divergence": "qkl", "forget_floor": 0.0},
    "NLUL under NGDiff": {"method": "ngdiff", "forget_loss": "nlul", "forget_loss_args": {"tol": 0.02}, "forget_floor": 0.0},
    "the teacher's KL as MOLLM's third objective": {"method": "mollm", "retain_kl": "teacher", "teacher_decay": 0.9, "forget_floor": 0.0},
    "SAM, with a teacher": {"method": "mean_teacher", "sam_rho": 0.1, "forget_floor": 0.0},
    "inner layers": {"method": "mollm", "stop_at": "never_seen", "holdout": HOLDOUT, "logit_lens_coef": 0.7},
    "inner layers under a loss per sequence": {"method": "npo", "stop_at": "never_seen", "logit_lens_coef": 0.7},
    "SAM while NGDiff stops early": {"method": "ngdiff", "stop_at": "never_seen", "holdout": HOLDOUT, "sam_rho": 0.2},
    "AutoLR under MOLLM": {"method": "mollm", "auto_lr": True, "forget_floor": 0.0},
    "AutoLR under a falling schedule": {"method": "ngdiff", "lr_scheduler_type": "linear", "forget_floor": 0.0},
    "AutoLR under the mean teacher": {"method": "mean_teacher", "forget_floor": 0.0, "retain_loss": "nll", "auto_lr": True},
    "clip that binds, and coefficients": {"method": "graddiff", "max_grad_norm": 0.01, "forget_coef": 0.3, "retain_coef": 2.0},
    "PDU whose multiplier moves down to 0 and up": {"method": "pdu", "retain_bound": 4.4, "lagrangian_rate": 20.0},
    "log_odds": {"method": "graddiff", "forget_loss": "log_odds", "forget_loss_args": {"tol": 0.02}, "forget_floor": FLOOR},
    "SimNPO with a margin": {"method": "simnpo", "forget_loss_args": {"beta": 2.0, "gamma": 0.5}},
    "RMU under PCGrad": {"method": "rmu", "combine": "pcgrad"},
    "a target for each token": {"method": "graddiff", "stop_at": "never_seen"},
    "a target for each token, under the mean teacher": {"method": "mean_teacher", "stop_at": "never_seen"},
    "a target for each token, of a loss in logits": {"method": "undial", "stop_at": "never_seen"},
    "targets that the holdout moves": {"method": "graddiff", "stop_at": "never_seen", "holdout": HOLDOUT},
    "early stopping while the holdout is held, under the mean teacher": {
        "method": "mean_teacher",
        "stop_at": "never_seen",
        "holdout": HOLDOUT,
    },
    "early stopping while the holdout is held, under NGDiff": {"method": "ngdiff", "stop_at": "never_seen", "holdout": HOLDOUT},
    FOUR: {"method": "mollm", "stop_at": "never_seen", "holdout": HOLDOUT, "kl_coef": 0.7},
    "the holdout held by the teacher": {
        **HELD,
        "method": "mean_teacher",
        "forget_floor": 0.0,
        "holdout_kl": "teacher",
        "divergence": "qkl",
    },
    "the holdout on the retain set's side": {**HELD, "method": "gru"},
    "a target for each sequence": {"method": "npo", "stop_at": "never_seen"},
    "a target for each sequence, with alternates": {"method": "dpo", "stop_at": "never_seen"},
    "other answers beside a fixed number of steps": {"method": "graddiff", "answers": "column", "answers_coef": 3.0},
    "other answers, under the mean teacher": {"method": "mean_teacher", "stop_at": "never_seen", "holdout": HOLDOUT, "answers": "column"},
    "other answers, under NGDiff": {"method": "ngdiff", "stop_at": "never_seen", "answers": "column"},
    FIVE: {"method": "mollm", "stop_at": "never_seen", "holdout": HOLDOUT, "answers": "natural", "answers_coef": 0.5, **ALL},
    "prompts with gaps, beside what the reference says to them": {"method": "npo", "prompt_dropout": 0.5},
    "other answers on the retain set's side": {"method": "gru", "answers": "refuse"},
}
# Our methods' own defaults with targets are each in mixes of its own.
ONE_BY_ONE = {"answers": "none", "logit_lens_coef": 0.0, "prompt_dropout": 0.0}
MIXES = {name: (ONE_BY_ONE if how["method"] in OURS else {}) | how for name, how in MIXES.items()}


@pytest.mark.parametrize("name", thinned(MIXES, every=3))
def test_trainer_equals_the_plain_loop(name, whole):
    trainer = whole(name)
    assert trainer.state.global_step == STEPS
    student, teacher, rates = plain(trainer)
    assert difference(trainer.student, adapters.adapter_parameters(student)) < 2e-6  # Adam divides by rounding where a KL starts at 0
    assert difference(trainer.student, adapters.adapter_parameters(trainer.start)) > 1e-4  # it did move
    if trainer.teacher:
        assert difference(trainer.teacher.parameters, adapters.adapter_parameters(teacher)) < 1e-6
    logged = [line["learning_rate"] for line in trainer.state.log_history if "learning_rate" in line]
    assert logged == pytest.approx(rates, rel=1e-4)


PER_SEQUENCE = "a target for each sequence, with alternates"
SPLITS = [(4, 2, False), (2, 4, True)]


@pytest.mark.parametrize("name", thinned([*METHODS, PER_SEQUENCE, FOUR, FIVE], every=6))
def test_batch_splits_and_checkpointing_change_nothing(name, whole, tmp_path):
    for size, accumulation, checkpointing in SPLITS if name in OURS else SPLITS[-1:]:
        changes = {"size": size, "accumulation": accumulation, "gradient_checkpointing": checkpointing}
        split = trained(tmp_path / f"{size}{checkpointing}", **MIXES[name], **changes)
        assert difference(split.student, whole(name).student) < 3e-6, changes  # fp32 sums in another order: 1.2e-6 on one of two CPUs
        if split.teacher:
            assert difference(split.teacher.parameters, whole(name).teacher.parameters) < 3e-6, changes


def nf4(folder) -> tuple[torch.nn.Module, torch.nn.Module]:
    """An NF4 model and its dequantized fp32 twin."""
    tiny_llama().save_pretrained(folder)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32
    )
    quantized = adapters.load_base(folder, dtype=torch.float32, quantization_config=quantization)
    twin = tiny_llama()
    for name, module in quantized.named_modules():
        if isinstance(module, Linear4bit):
            twin.get_submodule(name).weight.data = dequantize_4bit(module.weight.data, module.weight.quant_state)
    return quantized, twin


@pytest.mark.parametrize("method", thinned([*OURS, "dpo", "rmu"], every=3))
def test_nf4_base_trains_exactly_as_its_dequantized_twin(method, tmp_path):
    quantized, twin = nf4(tmp_path / "base")
    on_nf4 = trained(tmp_path / "nf4", method, quantized, forget_floor=FLOOR, eval_strategy="steps", eval_steps=1)
    on_fp32 = trained(tmp_path / "fp32", method, twin, forget_floor=FLOOR)
    assert isinstance(on_nf4.model.base_model.model.model.layers[0].self_attn.q_proj.base_layer, Linear4bit)
    assert torch.equal(flat(on_nf4.student), flat(on_fp32.student))


@pytest.mark.parametrize("method", thinned(OURS, every=3))
def test_evaluation_between_steps_changes_nothing(method, tmp_path):
    base, again = nf4(tmp_path / "base")[0], nf4(tmp_path / "again")[0]
    without = trained(tmp_path / "without", method, base)
    evaluated = trained(tmp_path / "with", method, again, eval_strategy="steps", eval_steps=1)
    assert sum("eval_forget_loss" in line for line in evaluated.state.log_history) == STEPS
    assert torch.equal(flat(evaluated.student), flat(without.student))


PACED = "the pace, with other answers"
RESUMED = {name: {"method": name} for name in (*OURS, "dpo", "task_arithmetic")} | {
    "PDU": {"method": "pdu", "retain_bound": 4.4},
    "SAM": {"method": "mollm", "sam_rho": 0.1},
    "a holdout": {"method": "graddiff", **HELD},
    "target_logps": {"method": "graddiff", "stop_at": "never_seen", "holdout": HOLDOUT},
    PACED: {"method": "graddiff", "retain_coef": 1e-3, "stop_at": "never_seen", "holdout": HOLDOUT, "answers": "natural"},
    "auto": {"method": "auto", "stop_at": "never_seen", "holdout": HOLDOUT, "answers": "natural", "sam_rho": 0.1},
}


@pytest.mark.parametrize("name", thinned(RESUMED, every=5))
def test_resumed_run_ends_bit_for_bit_where_an_uncut_one_does(name, tmp_path, monkeypatch):
    within = ("TOLERANCE", "TOLERANCE_ESTIMATE", "TOLERANCE_AUC", "TOLERANCE_MIN_K", "RETAIN_LOSS") if name != PACED else ()
    for bound in (*within, "IN_A_ROW", "WAITS"):  # every check is within tolerance, and no number of them ends the run
        monkeypatch.setattr(early_stop, bound, math.inf)
    monkeypatch.setattr(checks, "mean_recall", lambda recalls: 1.0)  # inner layers know more than a never-seen model's
    last = STEPS - 1
    uncut = trained(tmp_path / "uncut", **RESUMED[name], save_strategy="steps", save_steps=last)
    resumed = trained(tmp_path / "resumed", **RESUMED[name], resume_from=tmp_path / "uncut" / f"checkpoint-{last}")
    assert resumed.state.global_step == uncut.state.global_step == last + 1
    assert torch.equal(flat(resumed.student), flat(uncut.student))
    if uncut.teacher:
        assert torch.equal(flat(resumed.teacher.parameters), flat(uncut.teacher.parameters))
    if uncut.auto_lr:
        assert resumed.optimizer.param_groups[0]["lr"] == uncut.optimizer.param_groups[0]["lr"]
    if uncut.lagrangian:
        assert resumed.lagrangian.multiplier == uncut.lagrangian.multiplier != uncut.args.retain_coef
    if uncut.early_stop:
        kept, remembered = (
            [run.early_stop.holdout_shift, run.early_stop.correction_lowest, run.early_stop.correction_rest] for run in (uncut, resumed)
        )
        assert remembered == kept
        assert 1.0 not in kept  # or nothing was there to remember
        assert resumed.early_stop.within_tolerance == uncut.early_stop.within_tolerance
        deeper = [(run.early_stop.inner_weight, run.early_stop.looks) for run in (uncut, resumed)]
        assert deeper[0] == deeper[1]
        assert (deeper[0][0] > 1) == (name == "auto")  # the others read none
        assert uncut.early_stop.within_tolerance == (2 if within and name != "auto" else 0)
        assert resumed.early_stop.pace == uncut.early_stop.pace != Pace()
