"""Features beside each other: every pair of them trains as a plain loop does, or is refused in one sentence before training.

`python tests/test_feature_matrix.py > docs/feature-matrix.md` writes the table.
"""

import random
import sys
import tempfile
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "helpers"))  # as a script

import plain_step
import pytest
import torch
from datasets import Dataset
from families import FAMILIES, load, tiny
from pairwise import Pair, covering, pairs, pairs_of
from peft import LoraConfig, get_peft_model
from thinned import thinned
from word_rows import tokenizer

from peft_unlearn import UnlearnConfig, UnlearnTrainer
from peft_unlearn.util.errors import UserError

AXES = {
    "base": list(FAMILIES),
    "init": ["true", "gaussian", "orthogonal", "pissa"],
    "adapter": ["all-linear", "attention", "embeddings", "lm_head", "modules_to_save", "DoRA", "rsLoRA", "rank pattern"],
    "quantization": ["none", "nf4", "int8"],
    "method": ["mean_teacher", "ngdiff", "mollm", "npo", "rmu", "dpo"],
    "answers": ["column", "none"],
    "train_quantized": ["none", "nf4", "int8"],
    "sam_rho": ["0", "0.1"],
    "logit_lens_coef": ["0", "0.3"],
    "adapter_mode": ["new", "continue", "stack"],
}
# What is refused, a value beside every other or two values together, and the key that the sentence begins with.
NEVER = {("init", "pissa"): "init_lora_weights"}
TOGETHER = {
    (("init", "orthogonal"), ("quantization", "nf4")): "init_lora_weights",
    (("init", "orthogonal"), ("quantization", "int8")): "init_lora_weights",
    (("base", "Mixtral"), ("adapter", "DoRA")): "lora_target_modules",  # all-linear takes in the experts, which are no layers
    (("base", "Mixtral"), ("init", "orthogonal")): "lora_target_modules",  # the same; without the experts it can be trained
    (("adapter", "DoRA"), ("quantization", "int8")): "use_dora",  # on a CPU
    (("adapter", "modules_to_save"), ("adapter_mode", "stack")): "modules_to_save",
    (("method", "rmu"), ("logit_lens_coef", "0.3")): "stop_at",  # which gives it its targets
    (("method", "dpo"), ("answers", "none")): "answers",
}
REFUSED: dict[Pair, str] = {pair: key for value, key in NEVER.items() for pair in pairs(AXES) if value in pair}
REFUSED |= {frozenset(pair): key for pair, key in TOGETHER.items()}

TRAINED = covering({axis: [v for v in values if (axis, v) not in NEVER] for axis, values in AXES.items()}, REFUSED.keys())
FIRST = {axis: values[0] for axis, values in AXES.items()}


def rows(n: int, seed: int) -> Dataset:
    """Ragged rows, each with another answer to its own prompt."""
    rng = random.Random(seed)

    def words(least: int) -> list[int]:
        return [rng.randrange(3, 64) for _ in range(rng.randrange(least, 9))]

    def row(prompt: list[int], answer: list[int]) -> dict[str, list[int]]:
        return {"input_ids": [*prompt, *answer, 2], "labels": [-100] * len(prompt) + [*answer, 2]}

    made = []
    for _ in range(n):
        prompt = [1, *words(1)]
        made.append(row(prompt, words(1)) | {"alternate": row(prompt, words(0))})
    return Dataset.from_list(made)


FORGET, RETAIN = rows(4, 1), rows(5, 2).remove_columns("alternate")


def lora(case) -> LoraConfig:
    family, kind = FAMILIES[case["base"]], case["adapter"]
    targets = {
        "attention": family.attention,
        "embeddings": [family.embeddings, *family.attention],
        "lm_head": ["lm_head", *family.attention],
        "modules_to_save": family.attention,
    }
    extra = {
        "modules_to_save": {"modules_to_save": ["lm_head"]},
        "DoRA": {"use_dora": True},
        "rsLoRA": {"use_rslora": True},
        "rank pattern": {"rank_pattern": {family.attention[0]: 2}, "alpha_pattern": {family.attention[-1]: 3}},
    }
    init = True if case["init"] == "true" else case["init"]
    return LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=targets.get(kind, "all-linear"),
        init_lora_weights=init,
        task_type="CAUSAL_LM",
        **extra.get(kind, {}),
    )


def is_of(name: str, adapter: str) -> bool:
    return adapter in name.split(".")


def stir(model, adapter: str, seed: int) -> None:
    """A start from which every parameter has a gradient."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if is_of(name, adapter):
            p.data.add_(0.05 * torch.randn(p.shape, generator=generator))


def weights(model, adapter: str) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if is_of(name, adapter)}


def given(case):
    """The model that the user brings: the base, or the base with an adapter of the case's kind."""
    base = load(case["base"], case["quantization"])
    if case["adapter_mode"] == "new":
        return base
    name = {"continue": "default", "stack": "finetune"}[case["adapter_mode"]]
    model = get_peft_model(base, lora(case), adapter_name=name)
    stir(model, name, 3)
    return model


def plain(case, *adapters: dict[str, torch.Tensor]):
    """A model of its own with the adapters of these weights, by PEFT alone."""
    model = load(case["base"], case["quantization"])
    if not adapters:
        return model
    names = [next(name for name in ("finetune", "default") if is_of(next(iter(of)), name)) for of in adapters]
    model = get_peft_model(model, lora(case), adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, lora(case))
    model.base_model.set_adapter(names)
    for name, p in model.named_parameters():
        p.requires_grad_(is_of(name, names[-1]))
        for of in adapters:
            p.data = of.get(name, p.data).clone()
    return model.eval()


def trained(model) -> list[torch.nn.Parameter]:
    return [p for name, p in model.named_parameters() if is_of(name, "default")]


def trainer(case, folder) -> UnlearnTrainer:
    lens = float(case["logit_lens_coef"])
    args = UnlearnConfig(
        str(folder),
        method=case["method"],
        answers=case["answers"],
        max_steps=2,
        per_device_train_batch_size=2,
        forget_floor=0.0,
        learning_rate=1.0 if case["method"] == "mean_teacher" else 0.3,
        forget_coef=1.0,
        teacher_decay=0.5 if case["method"] == "mean_teacher" else None,
        auto_lr_max=1.0,
        optim="sgd",
        optim_args="momentum=0.9",
        lr_scheduler_type="constant",
        sam_rho=float(case["sam_rho"]),
        train_quantized=case["train_quantized"],
        logit_lens_coef=lens,
        stop_at="never_seen" if lens else "none",
        neutral_rows=0,
        use_cpu=True,
        disable_tqdm=True,
    )
    return UnlearnTrainer(
        given(case),
        args,
        forget_dataset=FORGET,
        retain_dataset=RETAIN,
        never_seen_model=never_seen(case["base"]) if lens else None,
        processing_class=tokenizer(),
        peft_config=None if case["adapter_mode"] == "continue" else lora(case),
    )


def never_seen(family: str):
    """Another model of the family, surer of itself: its log-probabilities lie well under those of the base, so that no check corrects targets."""
    model = tiny(family, 7)
    final = model.get_submodule(FAMILIES[family].norm)
    for p in final.parameters():
        p.data = 8 * (p.data + 1) - 1 if family == "Gemma2" else 8 * p.data
    return model


def distance(found, expected) -> float:
    a, b = (torch.cat([p.detach().flatten() for p in ps]) for ps in (found, expected))
    return ((a - b).norm() / b.norm()).item()


def differences(case, folder) -> dict[str, float]:
    """Of student and teacher after two steps from the plain loop's, and of the student from where it started."""
    run = trainer(case, folder)
    own = {name: weights(run.model, name) for name in ("default", "finetune", "reference")}
    if case["adapter_mode"] == "continue":
        below = [{name.replace("reference", "default"): value for name, value in own["reference"].items()}]
    else:
        below = [own["finetune"]] if case["adapter_mode"] == "stack" else []
    stir(run.model, "default", 5)
    for teacher, student in zip(run.teacher.parameters, run.student, strict=True) if run.teacher else ():
        teacher.data.copy_(student.data)
    start = weights(run.model, "default")
    stack = [own["finetune"], start] if case["adapter_mode"] == "stack" else [start]
    student, reference = plain(case, *stack), plain(case, *below)
    teacher = plain(case, *stack) if run.args.teacher_decay is not None else None
    known = never_seen(case["base"]) if run.args.stop_at != "none" else None
    names = ["finetune", "default"] if case["adapter_mode"] == "stack" else ["default"]
    run.train()
    expected, expected_teacher = plain_step.run(
        case["base"], case["quantization"], run.args, run.train_dataset, student, teacher, reference, trained, names, own["default"], known
    )
    found = trained(run.model)
    result = {"student": distance(found, expected), "moved": distance(found, start.values())}
    if teacher is not None:
        result["teacher"] = distance([p for name, p in run.model.named_parameters() if is_of(name, "teacher")], expected_teacher)
    return result


def label(row: dict[str, str] | Pair) -> str:
    return ", ".join(row.values()) if isinstance(row, dict) else " with ".join(value for _, value in sorted(row))


def test_every_pair_is_trained_or_refused():
    covered = set().union(*map(pairs_of, TRAINED))
    assert covered | REFUSED.keys() == pairs(AXES)
    assert not covered & REFUSED.keys()


@pytest.mark.parametrize("case", thinned(TRAINED, every=4), ids=label)
def test_two_steps_are_those_of_a_plain_loop(case, tmp_path):
    found = differences(case, tmp_path)
    bound = 1e-6 if case["train_quantized"] == "none" else 1e-5  # the last bit of a weight may decide between two values of the grid
    assert found["student"] < bound
    assert found.get("teacher", 0.0) < bound
    assert found["moved"] > 1e-3


def refusal(pair: Pair, folder) -> str:
    with pytest.raises(UserError) as error:
        trainer(FIRST | dict(pair), folder)
    return str(error.value)


@pytest.mark.parametrize("pair", sorted(REFUSED, key=sorted), ids=label)
def test_what_cannot_be_trained_is_refused_in_one_sentence(pair, tmp_path):
    said = refusal(pair, tmp_path)
    assert said.startswith(f"{REFUSED[pair]}: ")
    assert said.endswith(".")
    assert "\n" not in said


def table() -> str:
    """docs/feature-matrix.md."""
    with tempfile.TemporaryDirectory() as folder:
        reasons = {
            **{f"{axis}: {value}": refusal(frozenset({(axis, value), ("method", "npo")}), folder) for axis, value in NEVER},
            **{", ".join(f"{axis}: {value}" for axis, value in pair): refusal(frozenset(pair), folder) for pair in TOGETHER},
        }
    return "\n".join(
        [
            "# Which features go together",
            "",
            "Written by `python tests/test_feature_matrix.py > docs/feature-matrix.md`; the tests in that file hold it.",
            "",
            f"The values below make {len(pairs(AXES))} pairs of features, tried on tiny random models in fp32 on a CPU. "
            f"{len(pairs(AXES)) - len(REFUSED)} pairs train: student and teacher after two steps, the second one a perturbed step, "
            f"differ from an independent plain loop by less than 1e-6 of their norm, 1e-5 under train_quantized "
            f"({len(TRAINED)} runs hold every pair at least once). "
            f"{len(REFUSED)} pairs are refused before training.",
            "",
            "| axis | values |",
            "| --- | --- |",
            *(f"| {axis} | {', '.join(values)} |" for axis, values in AXES.items()),
            "",
            "All-linear, DoRA, rsLoRA and the rank pattern adapt every linear layer, and Mixtral's experts. Attention adapts query and value "
            "projections; embeddings, lm_head and modules_to_save (of the head) come on top of those. Each method brings its own losses, "
            "combiner, teacher and automatic learning rate. logit_lens_coef comes with stop_at: never_seen. Answers of a column are what dpo "
            "prefers; other methods learn them, as they do those of a model and refusals.",
            "",
            "| refused | sentence |",
            "| --- | --- |",
            *(f"| {what} | {said} |" for what, said in reasons.items()),
            "",
            "Pairs of each two axes that train, + those that are refused:",
            "",
            "| | " + " | ".join(list(AXES)[1:]) + " |",
            "| --- " * len(AXES) + "|",
            *(f"| {axis} | " + " | ".join(counts(axis, other) for other in list(AXES)[1:]) + " |" for axis in list(AXES)[:-1]),
            "",
        ]
    )


def counts(a: str, b: str) -> str:
    if list(AXES).index(a) >= list(AXES).index(b):
        return ""
    refused = [frozenset({(a, x), (b, y)}) in REFUSED for x, y in product(AXES[a], AXES[b])]
    return f"{refused.count(False)}" + (f" + {sum(refused)}" if any(refused) else "")


def test_the_table_of_the_docs_is_up_to_date():
    assert (Path(__file__).parent.parent / "docs" / "feature-matrix.md").read_text(encoding="utf-8") == table()


if __name__ == "__main__":
    sys.stdout.write(table())
