"""The memory of a run against models, optimizers and steps that were really made."""

import gc
import re
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Params4bit
from cli_bed import refused
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from test_openunlearning import word_tokenizer
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM, Qwen2MoeConfig, Qwen3Config

from peft_unlearn import UnlearnConfig, UnlearnTrainer, planning
from peft_unlearn.cli import main
from peft_unlearn.config import recipe as recipes
from peft_unlearn.model import adapters
from peft_unlearn.planning import host, meta
from peft_unlearn.planning.memory import Base
from peft_unlearn.util.errors import UserError

SHAPE = {
    "vocab_size": 1024,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,  # in 32 bits CUDA has no fused attention for groups of queries, and the CPU has
    "max_position_embeddings": 128,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a Llama of five layers."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A folder with the config of a Llama of two layers."""
    folder = tmp_path_factory.mktemp("short")
    LlamaConfig(**SHAPE | {"num_hidden_layers": 2}).save_pretrained(folder)
    return folder


def values(base, **changes):
    return {
        "model_name_or_path": str(base),
        "forget_dataset": "nowhere.jsonl",
        "output_dir": "out",
        "dtype": "float32",
        "use_cpu": True,
        "max_length": 128,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 1,  # what is compared are steps alone
    } | changes


def held(tensors):
    """Bytes of the storages below some tensors, each in whole blocks of 512."""
    return sum({t.untyped_storage().data_ptr(): -(-t.untyped_storage().nbytes() // 512) * 512 for t in tensors}.values())


@pytest.mark.parametrize("nested", [False, True])
def test_weights_are_those_of_a_loaded_model(base, nested):
    found = planning.measure(values(base, dtype="bfloat16", load_in_4bit=True, use_bnb_nested_quant=nested))
    how = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=nested, bnb_4bit_compute_dtype="bfloat16"
    )
    model = adapters.load_base(base, dtype="bfloat16", quantization_config=how)
    tensors = [*model.parameters(), *model.buffers()]
    for state in (p.quant_state for p in model.parameters() if isinstance(p, Params4bit)):
        tensors += [state.absmax, state.code] + ([state.offset, state.state2.absmax, state.state2.code] if nested else [])
    copies = [t.clone() for t in tensors]  # each alone: of a mapped file, all lie in one storage
    assert found.items["base weights"] == held(copies)


def trained(base, **changes):
    """The most bytes that two real steps held, from torch's profiler, and the trainer."""
    settings = {"per_device_train_batch_size": 4, "max_length": 128, "max_steps": 2, "learning_rate": 1e-4, "disable_tqdm": True} | changes
    torch.manual_seed(0)
    rows = [torch.randint(1024, (n,)).tolist() for n in (128, 128, 128, 127) * 2]
    data = Dataset.from_dict({"input_ids": rows, "labels": rows})
    gc.collect()  # what is freed during the steps is to be the steps' own
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = LlamaForCausalLM(LlamaConfig(**SHAPE))
        args = UnlearnConfig("out", use_cpu=True, report_to="none", **settings)
        trainer = UnlearnTrainer(model, args, data, data, processing_class=word_tokenizer())
        with record_function("steps"):
            trainer.train()
    events = list(profiler.profiler.kineto_results.events())
    (steps,) = (e for e in events if e.name() == "steps")
    now = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now) if steps.start_ns() <= event.start_ns() <= steps.end_ns() else most
    return most, trainer


@pytest.mark.parametrize(
    "settings", [{"method": "mollm"}, {"method": "mean_teacher", "gradient_checkpointing": True}], ids=lambda settings: settings["method"]
)
def test_the_peak_is_that_of_a_real_step(base, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    most, trainer = trained(base, **settings)
    memory = planning.measure(values(base, lora_r=16, lora_alpha=32, **settings))
    state = [t for found in trainer.optimizer.state.values() for t in found.values() if t.dim()]
    assert memory.items["adapter"] == held(trainer.student)
    assert memory.items["optimizer state"] == held(state)
    assert memory.items.get("teacher", 0) == held(trainer.teacher.parameters if trainer.teacher else [])
    assert memory.items["gradients"] >= held([trainer._gradients.matrix])
    assert memory.peak == pytest.approx(most, rel=0.1)
    weights = memory.items["base weights"]
    assert memory.peak - weights == pytest.approx(most - weights, rel=0.1)


def test_two_depths_tell_all_the_others(base):
    recipe = values(base, method="mollm", max_length=32)
    config, depths = planning.read_base(recipe)
    assert depths == (2, 3)
    assert planning.measure(recipe) == planning.measure(recipe, Base(config, (5,)))


def test_two_kinds_of_layers_tell_all_the_others(tmp_path):
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    Qwen3Config(**SHAPE, head_dim=32, layer_types=kinds, use_sliding_window=True, sliding_window=16).save_pretrained(tmp_path)
    recipe = values(tmp_path, method="graddiff", max_length=32)
    config, depths = planning.read_base(recipe)
    assert depths == (2, 3)
    assert planning.measure(recipe) == planning.measure(recipe, Base(config, (5,)))


def test_experts_that_bitsandbytes_does_not_pack_are_counted_by_themselves(tmp_path):
    config = MixtralConfig(**SHAPE | {"num_hidden_layers": 2}, num_local_experts=2)
    config.save_pretrained(tmp_path)
    recipe = values(tmp_path, method="graddiff", max_length=32, load_in_4bit=True)
    experts = sum(p.numel() for name, p in MixtralForCausalLM(config).named_parameters() if ".experts." in name)
    assert planning.measure(recipe).items["experts in float32"] == 4 * experts


def test_layers_of_different_shapes_are_all_traced(tmp_path):
    config = Qwen2MoeConfig(**SHAPE, mlp_only_layers=[0], num_experts=2, moe_intermediate_size=64, shared_expert_intermediate_size=64)
    config.save_pretrained(tmp_path)
    assert planning.read_base(values(tmp_path)).depths == (5,)


def test_changes_save_what_they_promise(short):
    recipe = values(short, method="graddiff", lora_r=64)  # of 16, the factors are too small for an 8-bit state
    before, read = planning.measure(recipe), planning.read_base(recipe)
    found = planning.changes(recipe, read, before)
    keys = [next(iter(change.settings)) for change in found if not change.together]
    assert keys == ["gradient_checkpointing", "per_device_train_batch_size", "load_in_4bit", "optim", "optim", "lora_r"]
    assert all(change.memory.peak < before.peak for change in found)
    assert found[-1].together
    assert found[-1].memory.peak == min(change.memory.peak for change in found)
    rows = next(change for change in found if "per_device_train_batch_size" in change.settings)
    assert rows.settings == {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    assert planning.measure(recipe | rows.settings) == rows.memory


def test_a_teacher_and_an_objective_cost_an_adapter_each(short):
    two = planning.measure(values(short, method="ngdiff", max_length=32))
    three = planning.measure(values(short, method="mollm", max_length=32))
    adapter = two.items["adapter"]
    assert three.items["gradients"] - two.items["gradients"] == pytest.approx(adapter, rel=0.02)
    assert planning.measure(values(short, max_length=32)).items["teacher"] == adapter
    assert "teacher" not in two.items


def test_the_references_adapter_is_held_beside_the_one_below(short, tmp_path):
    own = get_peft_model(LlamaForCausalLM(LlamaConfig.from_pretrained(short)), LoraConfig(r=4, target_modules=["q_proj"]))
    own.save_pretrained(tmp_path / "own")
    below = {"adapter_name_or_path": str(tmp_path / "own"), "method": "ngdiff", "max_length": 32}
    one, two = (
        planning.measure(values(short, **below, **more)).items["other adapters"]
        for more in ({}, {"reference_adapter_name_or_path": str(tmp_path / "own")})
    )
    assert two == 2 * one > 0


def test_other_answers_cost_an_objective_and_a_stream(short):
    """A holdout file is named, so the plan has every stream that a run has: forget, retain, holdout, answers."""
    settings = {"method": "ngdiff", "max_length": 32, "stop_at": "auto", "holdout_dataset": "nowhere.jsonl", "logit_lens_coef": 0}
    three, four = (planning.measure(values(short, answers=answers, **settings)) for answers in ("none", "natural"))
    adapter = three.items["adapter"]
    assert four.items["gradients"] - three.items["gradients"] == pytest.approx(adapter, rel=0.02)
    assert four.peak > three.peak
    without = planning.measure(values(short, method="ngdiff", max_length=32))
    assert three.items["gradients"] - without.items["gradients"] == pytest.approx(adapter, rel=0.02)
    preferred = planning.measure(values(short, method="dpo", max_length=32, answers="natural"))
    assert preferred == planning.measure(values(short, method="dpo", max_length=32))  # beside the forget rows, wherever they come from


def test_paged_state_is_not_on_the_gpu(short):
    paged, eight, full = (
        planning.measure(values(short, max_length=32, lora_r=512, optim=optim)).items["optimizer state"]
        for optim in ("paged_adamw_8bit", "adamw_8bit", "adamw_torch")
    )
    assert paged < eight < full / 3


def test_plan_needs_neither_data_nor_weights(short, recipe, no_model, capsys):
    path = recipe(model_name_or_path=str(short), forget_dataset="nowhere.jsonl", retain_dataset="left out")
    assert main(["plan", path, "--max_length", "32"]) == 0
    said = capsys.readouterr().out
    for item in ("base weights", "adapter", "teacher", "gradients", "optimizer state", "kept copies", "activations"):
        assert item in said
    assert "a GPU would need" in said
    assert len(re.findall(r"a card of \d+ GB +│ +holds it", said)) == 4
    assert "would save" not in said


def test_plan_names_what_would_make_it_fit(tmp_path, recipe, capsys):
    shape = SHAPE | {"hidden_size": 8192, "intermediate_size": 28672, "vocab_size": 128256, "num_attention_heads": 64}
    LlamaConfig(**shape | {"num_hidden_layers": 2, "num_key_value_heads": 64}).save_pretrained(tmp_path / "wide")
    path = recipe(
        model_name_or_path=str(tmp_path / "wide"),
        use_cpu="left out",
        gradient_checkpointing=True,
        max_length=64,
        per_device_train_batch_size=1,
        optim="adamw_8bit",
    )
    assert main(["plan", path]) == 0
    said = capsys.readouterr().out
    assert "8 GB" in said
    assert "does not hold it" in said
    assert "--load_in_4bit true" in said


def test_what_cannot_be_planned_is_said(base, recipe, capsys, tmp_path):
    refused(capsys, ["plan", "none.yaml"], "recipe: none.yaml does not exist")
    refused(capsys, ["plan", recipe(model_name_or_path="nowhere")], "model_name_or_path", "config.json")
    refused(capsys, ["plan", recipe(lora_rank=8)], "lora_rank", "lora_r")
    refused(capsys, ["plan", recipe(bf16=True)], "bf16", "dtype: bfloat16")
    refused(capsys, ["plan", recipe(adapter_name_or_path="nowhere")], "adapter_name_or_path", "adapter_config.json")
    config = LlamaConfig(**SHAPE, quantization_config={"quant_method": "gptq", "bits": 4})
    config.save_pretrained(tmp_path / "gptq")
    refused(capsys, ["plan", recipe(model_name_or_path=str(tmp_path / "gptq"))], "model_name_or_path", "gptq")


# --------------------------------------------------------------------------------------------------------------------- on a CPU


@pytest.mark.parametrize(
    ("changes", "bytes_of_a_weight", "says"),
    [
        ({}, 4, "write dtype: bfloat16, load_in_4bit: true, a smaller model, or train on a GPU"),
        ({"dtype": "bfloat16"}, 2, "write load_in_4bit: true, a smaller model"),
        ({"dtype": "auto"}, 4, "write dtype: bfloat16"),
        ({"load_in_4bit": True}, 0.5, "available; write a smaller model, or train"),
    ],
)
def test_what_a_machine_without_a_gpu_cannot_hold_is_refused_before_it_is_loaded(changes, bytes_of_a_weight, says, base, monkeypatch):
    """Of the weights and the adapter, its teacher and a gradient, as a loaded model has them; a byte more is enough."""
    plan = recipes.build(values(base, method="mean_teacher", **changes))
    trained = adapters.attach(LlamaForCausalLM.from_pretrained(base), adapters.default_lora())
    adapter = sum(p.numel() for p in adapters.adapter_parameters(trained))
    weights = sum(p.numel() for p in trained.get_base_model().parameters()) - adapter
    needed = int(weights * bytes_of_a_weight + 3 * 4 * adapter)
    monkeypatch.setattr(adapters, "load_base", None)
    monkeypatch.setattr(host, "get_max_memory", lambda: {"cpu": needed})
    host.check(plan)
    monkeypatch.setattr(host, "get_max_memory", lambda: {"cpu": needed - 1})
    with pytest.raises(
        UserError, match=r"^model_name_or_path: the weights of .* take 0\.0 GB, and this machine has 0\.0 GB of memory"
    ) as caught:
        host.check(plan)
    assert says in str(caught.value)


def test_train_refuses_what_does_not_fit_and_writes_nothing(recipe, capsys, monkeypatch):
    monkeypatch.setattr(host, "get_max_memory", lambda: {"cpu": 1000})
    monkeypatch.setattr(adapters, "load_base", None)
    refused(capsys, ["train", recipe()], "model_name_or_path", "this machine has 0.0 GB of memory available")
    assert not Path("out").exists()


def test_a_quantized_base_that_does_not_say_how_is_refused():
    config = LlamaConfig(**SHAPE)
    for empty in ({}, {"bits": 4}):
        config.quantization_config = empty
        with pytest.raises(UserError, match="quantization_config of its config.json has no quant_method; give the base in 16 bits"):
            meta.load_base(config, "auto", None, None)
    config.quantization_config = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}  # as it was written before quant_method was
    assert any(isinstance(p, Params4bit) for p in meta.load_base(config, "auto", None, None).parameters())
