"""Peak memory of merging a large model, shard by shard.

    python benchmarks/merge_memory.py                                   # layers of the 8B shape and its head, 5.6 GB in bf16
    python benchmarks/merge_memory.py --layers 32 --shard-size 5GB      # all of 8B: 16 GB to write, and as much again for the result
    python benchmarks/merge_memory.py --quantize nf4

It makes a base of random weights of the shape of Llama 3 8B with fewer layers, an adapter on all linear layers, runs `merge` in a process of its
own, and prints the highest resident memory of that process. The bound is twice the largest shard and 2 GB. Everything is deleted afterwards.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from peft_unlearn import merging
from peft_unlearn.merging import lora, shards

GB = 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--intermediate", type=int, default=14336)
    parser.add_argument("--vocabulary", type=int, default=128256)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--shard-size", default="2GB")
    parser.add_argument("--quantize", choices=["nf4", "int8"])
    parser.add_argument("--folder", type=Path, help="where the models are written; the system's temporary folder if left out")
    parser.add_argument("--merge", nargs=2, type=Path, help=argparse.SUPPRESS)  # the process that is measured
    options = parser.parse_args()
    if options.merge:
        merge(*options.merge, quantize=options.quantize)
        return
    config = LlamaConfig(
        hidden_size=options.hidden,
        intermediate_size=options.intermediate,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 128,
        num_key_value_heads=max(1, options.hidden // 512),
        vocab_size=options.vocabulary,
        dtype="bfloat16",
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        sizes = write_base(config, Path(folder) / "base", options.shard_size)
        write_adapter(config, Path(folder) / "base", Path(folder) / "adapter", options.rank)
        kind = ["--quantize", options.quantize] if options.quantize else []
        command = [sys.executable, __file__, "--merge", f"{folder}/adapter", f"{folder}/merged", *kind]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    bound = 2 * max(sizes) + 2 * GB
    print(f"{sum(sizes) / GB:.2f} GB in {len(sizes)} shards of up to {max(sizes) / GB:.2f} GB, into {options.quantize or 'bf16'}")
    print(
        f"peak {found['peak'] / GB:.2f} GB, {found['imports'] / GB:.2f} GB of it before merging; bound {bound / GB:.2f} GB; {found['seconds']:.0f} s"
    )


def write_base(config: LlamaConfig, folder: Path, shard_size: str) -> list[int]:
    """Random weights, one shard in memory at a time; the sizes of the shards in bytes."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    split = split_torch_state_dict_into_shards(model.state_dict(), max_shard_size=shard_size)
    config.save_pretrained(folder)
    for file, names in split.filename_to_tensors.items():
        tensors = {name: torch.empty(model.state_dict()[name].shape, dtype=torch.bfloat16).normal_(std=0.02) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        shards.write_index(folder, split.tensor_to_filename, split.metadata["total_size"])
    return [path.stat().st_size for path in folder.glob("*.safetensors")]


def write_adapter(config: LlamaConfig, base: Path, folder: Path, rank: int) -> None:
    """A random adapter on every linear layer but the head."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    peft = LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(model, peft, low_cpu_mem_usage=True)
    names = {name.replace(".default", ""): p.shape for name, p in adapted.named_parameters() if "lora_" in name}
    peft.base_model_name_or_path = str(base)
    folder.mkdir()
    save_file({name: torch.randn(shape) * 0.01 for name, shape in names.items()}, folder / lora.WEIGHTS, metadata={"format": "pt"})
    peft.save_pretrained(folder)


def merge(adapter: Path, output: Path, *, quantize: str | None) -> None:
    """Merge, and print what it took as JSON."""
    imports, start = peak(), time.monotonic()
    merging.merge(adapter, output, quantize=quantize)
    print(json.dumps({"peak": peak(), "imports": imports, "seconds": time.monotonic() - start}))


def peak() -> int:
    """The highest resident memory of this process so far, in bytes (Linux). `getrusage` would count its parent as well."""
    return 1024 * int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1])


if __name__ == "__main__":
    main()
