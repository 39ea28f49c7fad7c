"""What `peft-unlearn plan` says of the memory of a run, beside what the run takes.

    python benchmarks/memory.py                                              # small models on the CPU, or the same on the GPU where there is one
    python benchmarks/memory.py --recipe recipes/tofu-qwen3-8b-12gb.yaml     # on a GPU: two steps of a recipe, its base with random weights

Weights and tokens are random and every row is as long as it may be, but for one of each batch. On a GPU the run's number is
`torch.cuda.max_memory_allocated`; without one it is the most that torch's CPU allocator had given out during the steps, as torch.profiler records it.
"""

import argparse
import gc
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Params4bit
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen3Config
from trl import get_peft_config, get_quantization_config

from peft_unlearn import UnlearnTrainer, planning
from peft_unlearn.config import reading, recipe
from peft_unlearn.model import adapters

STEPS = "the two steps"

SHAPE: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 32768,
    "max_position_embeddings": 2048,
}
# In 32 bits CUDA has no fused attention for groups of queries, and the CPU has: only the one that is run in 16 bits has groups.
CONFIGS = {"llama": LlamaConfig(**SHAPE), "qwen3": Qwen3Config(**SHAPE | {"num_key_value_heads": 4}, head_dim=64, tie_word_embeddings=True)}


def cases() -> list[tuple[str, dict[str, Any]]]:
    """The base and the settings of each line of the table."""
    found = []
    for method in ("mean_teacher", "ngdiff", "mollm"):
        for load_in_4bit in (False, True):
            for checkpointing in (False, True):
                found.append(("llama", {"method": method, "load_in_4bit": load_in_4bit, "gradient_checkpointing": checkpointing}))
    found.append(("llama", {"method": "ngdiff", "load_in_4bit": True, "sam_rho": 0.2}))
    found.append(("llama", {"method": "simnpo", "load_in_4bit": True, "train_quantized": "nf4"}))
    found.append(("llama", {"method": "npo", "load_in_4bit": True, "use_bnb_nested_quant": True, "per_device_train_batch_size": 1}))
    if torch.cuda.is_available():  # 16 bits take minutes on a CPU
        found.append(("qwen3", {"method": "mean_teacher", "dtype": "bfloat16", "load_in_4bit": True, "use_bnb_nested_quant": True}))
        found.append(("qwen3", {"method": "npo", "dtype": "bfloat16", "per_device_train_batch_size": 1}))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("overrides", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    print("| base | settings | plan, MB | run, MB | plan / run | beyond the weights | plan, s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        if options.recipe:
            compare("", reading.load(options.recipe, options.overrides), Path(folder))
            return
        for name, config in CONFIGS.items():
            config.save_pretrained(Path(folder) / name)
        for name, settings in cases():
            compare(name, settings, Path(folder))


def compare(name: str, settings: dict[str, Any], folder: Path) -> None:
    """Print a line of the table."""
    values = {
        "model_name_or_path": str(folder / name),
        "forget_dataset": "forget.jsonl",
        "output_dir": str(folder / "out"),
        "dtype": "float32",
        "max_length": 256,
        "per_device_train_batch_size": 2,
        "use_cpu": not torch.cuda.is_available(),
    } | settings
    values = recipe.check({**values, "per_device_eval_batch_size": 1})  # the steps alone are run
    began = time.monotonic()
    memory = planning.measure(values)
    seconds = time.monotonic() - began
    taken = run(values, folder)
    said = ", ".join(f"{key}: {value}" for key, value in settings.items())
    weights = memory.items["base weights"]
    ratios = f"{memory.peak / taken:.3f} | {(memory.peak - weights) / (taken - weights):.3f}"
    print(f"| {name} | {said} | {memory.peak / 1e6:.0f} | {taken / 1e6:.0f} | {ratios} | {seconds:.1f} |", flush=True)


def run(values: dict[str, Any], folder: Path) -> int:
    """The most bytes that were allocated during two real steps."""
    plan = recipe.build(values)
    args = plan.training
    args.max_steps, args.save_strategy, args.disable_tqdm, args.num_train_epochs = 2, "no", True, 0
    args.learning_rate = args.learning_rate or 1e-4
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")), pad_token="<unk>")
    config = AutoConfig.from_pretrained(values["model_name_or_path"])
    config.dtype = plan.model.dtype
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "base")
    gc.collect()  # what is freed during the steps is to be the steps' own
    with profile(activities=[ProfilerActivity.CPU], profile_memory=not torch.cuda.is_available()) as profiler:
        base = adapters.load_base(folder / "base", dtype=plan.model.dtype, quantization_config=get_quantization_config(plan.model))
        for tensor in base.state_dict(keep_vars=True).values():
            if not isinstance(tensor, Params4bit):
                tensor.data = tensor.data.clone()  # out of the mapped file, which no allocator counts
        peft_config: Any = get_peft_config(plan.model)
        forget, retain = (dataset(config.get_text_config().vocab_size, args) for _ in range(2))
        trainer = UnlearnTrainer(base, args, forget, retain, processing_class=words, peft_config=peft_config)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()  # loading is over
        with record_function(STEPS):
            trainer.train()
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return highest(profiler.profiler.kineto_results.events())


def dataset(vocabulary: int, args: Any) -> Dataset:
    """Two batches of tokenized random rows, every one but the last of a batch of `max_length` tokens, all of them labels."""
    size, length = args.per_device_train_batch_size, args.max_length
    lengths = [length - (size > 1 and i % size == size - 1) for i in range(2 * size * args.gradient_accumulation_steps)]
    rows = [torch.randint(vocabulary, (n,)).tolist() for n in lengths]
    return Dataset.from_dict({"input_ids": rows, "labels": rows})


def highest(events: Any) -> int:
    """The most bytes that were held within the range `STEPS`: the profiler records what is allocated and freed, from its start on."""
    (steps,) = (event for event in events if event.name() == STEPS)
    held = most = 0
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        held += event.nbytes()
        if steps.start_ns() <= event.start_ns() <= steps.end_ns():
            most = max(most, held)
    return most


if __name__ == "__main__":
    main()
