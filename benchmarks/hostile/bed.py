"""What a case of `bad_inputs` stands on: tiny bases, adapters, rows and a recipe in one folder."""

import json
from pathlib import Path

import torch
import yaml
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hostile import gguf_bases

WORDS = ["who", "what", "is", "the", "of", "in", "colour", "city", "Question", "Answer", ":", "?", "red", "green", "blue"]
WORDS += ["one", "two", "three", "four", "five", "six"]
TEMPLATE = (
    "{% for m in messages %}<s> {{ m.role }} : {{ m.content }} </s> {% endfor %}{% if add_generation_prompt %}<s> assistant : {% endif %}"
)


def make_run(folder: Path) -> None:
    """Train in the bed's folder, which is the working directory: "run" has "checkpoint-1" and "checkpoint-2"."""
    from hostile.lines import RESUME
    from peft_unlearn.cli import main

    assert main(RESUME[:-1]) == 0


def make_bed(folder: Path) -> None:
    """Write "base", "other" (as large), "wide", "lora" on the first, "widelora", "gguf", rows and "r.yaml" into a folder."""
    known = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}, unk_token="<unk>"))
    known.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=known, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>")
    tokenizer.chat_template = TEMPLATE
    sizes = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
    for seed, (name, hidden) in enumerate({"base": 64, "other": 64, "wide": 128}.items()):
        torch.manual_seed(seed)
        LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=hidden, bos_token_id=1, eos_token_id=2, **sizes)).save_pretrained(
            folder / name
        )
        tokenizer.save_pretrained(folder / name)
        if hidden != 64 or name == "base":
            model = LlamaForCausalLM.from_pretrained(folder / name)
            config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
            get_peft_model(model, config).save_pretrained(folder / {"base": "lora", "wide": "widelora"}[name])
    for name in ("lora", "widelora"):
        said = json.loads((folder / name / "adapter_config.json").read_text())
        said["base_model_name_or_path"] = {"lora": "base", "widelora": "wide"}[name]
        (folder / name / "adapter_config.json").write_text(json.dumps(said))
    (folder / "gguf").mkdir()
    gguf_bases.write(folder / "gguf" / gguf_bases.FILE)
    numbers, colours = WORDS[15:21], WORDS[12:15] * 2
    pairs = list(zip(numbers, colours, strict=True))
    sets = {
        "forget": [{"question": f"what is the colour of {n} ?", "answer": f"{c} {n}"} for n, c in pairs[:3]],
        "retain": [{"question": f"who is in the city of {n} ?", "answer": f"{c} {n}"} for n, c in pairs],
        "holdout": [{"question": f"who is the colour of {n} ?", "answer": f"{n} {c}"} for n, c in pairs[1:4]],
    }
    for name, rows in sets.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "model_name_or_path": "base",
        "forget_dataset": "forget.jsonl",
        "retain_dataset": "retain.jsonl",
        "output_dir": "out",
        "method": "graddiff",
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "eval_rows": 1,
        "lora_r": 4,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe))
