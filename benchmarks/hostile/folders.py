"""Bases, adapters, output folders and checkpoints of which one file is wrong: what is done to a good folder, by name."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from hostile.damage import (
    LATIN,
    Damage,
    both,
    cut,
    directory,
    every_json,
    filled,
    flipped,
    lacking,
    pickled,
    tensors,
    with_values,
    without,
    written,
)

CONFIG, WEIGHTS, ADAPTER, LORA = "config.json", "model.safetensors", "adapter_config.json", "adapter_model.safetensors"
TEMPLATE, MANIFEST = "chat_template.jinja", "manifest.json"


def indexed(content: Any) -> Damage:
    """The weights are those that an index of this content names."""

    def damage(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
        (folder / f"{WEIGHTS}.index.json").write_text(content if isinstance(content, str) else json.dumps(content))

    return damage


def indexed_elsewhere(folder: Path) -> None:
    """The weights lie beside the folder."""
    names = list(load_file(folder / WEIGHTS))
    (folder / WEIGHTS).rename(folder.parent / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../elsewhere.safetensors")}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def config(**values: Any) -> Damage:
    return with_values(CONFIG, values)


def adapter(**values: Any) -> Damage:
    return with_values(ADAPTER, values)


BASES: dict[str, Damage] = {
    **every_json("config", CONFIG),
    "type-unknown": config(model_type="nope"),
    "type-list": config(model_type=[1]),
    "type-null": config(model_type=None),
    "type-encoder": config(model_type="t5"),
    **{f"{name}-{said}": config(**{key: value}) for name, key in (
        ("layers", "num_hidden_layers"), ("hidden", "hidden_size"), ("heads", "num_attention_heads"), ("vocab", "vocab_size"),
        ("intermediate", "intermediate_size"), ("key-value", "num_key_value_heads"), ("head-dim", "head_dim"),
    ) for said, value in (("0", 0), ("negative", -1), ("string", "x"), ("null", [None]), ("other", 3), ("huge", 10**9), ("float", 1.5))},
    **{f"positions-{value}": config(max_position_embeddings=value) for value in (0, 1, -5)},
    "act-unknown": config(hidden_act="nope"),
    "act-number": config(hidden_act=5),
    "rope-type-unknown": config(rope_parameters={"rope_type": "nope"}),
    "rope-theta-string": config(rope_parameters={"rope_type": "default", "rope_theta": "x"}),
    "eps-nan": config(rms_norm_eps=float("nan")),
    "eps-inf": config(rms_norm_eps=float("inf")),
    "eps-negative": config(rms_norm_eps=-1.0),
    "eps-string": config(rms_norm_eps="x"),
    "theta-nan": config(rope_parameters={"rope_type": "default", "rope_theta": float("nan")}),
    "dtype-nope": config(dtype="nope"),
    "dtype-number": config(dtype=5),
    "tie-string": config(tie_word_embeddings="maybe"),
    "quantized-awq": config(quantization_config={"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}),
    "quantized-gptq": config(quantization_config={"quant_method": "gptq", "bits": 4}),
    "quantized-unknown": config(quantization_config={"quant_method": "nope"}),
    "quantized-list": config(quantization_config=[1]),
    "quantized-string": config(quantization_config="4bit"),
    "quantized-empty": config(quantization_config={}),
    "quantized-bnb-but-is-not": config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "weights-missing": without(WEIGHTS),
    "weights-empty": written(WEIGHTS, ""),
    "weights-cut": cut(WEIGHTS),
    "weights-garbage": written(WEIGHTS, LATIN * 50),
    "weights-nan": tensors(WEIGHTS, filled(float("nan"))),
    "weights-inf": tensors(WEIGHTS, filled(float("inf"))),
    "weights-missing-tensor": tensors(WEIGHTS, lacking("q_proj")),
    "weights-missing-embedding": tensors(WEIGHTS, lacking("embed_tokens")),
    "weights-no-tensors": tensors(WEIGHTS, lambda found: {}),
    "weights-other-names": tensors(WEIGHTS, lambda found: {f"x.{name}": tensor for name, tensor in found.items()}),
    "weights-integers": tensors(WEIGHTS, lambda found: {name: tensor.to(torch.int32) for name, tensor in found.items()}),
    "weights-directory": directory(WEIGHTS),
    "weights-half": tensors(WEIGHTS, lambda found: dict(list(found.items())[:10])),
    "pickle-bomb": pickled(WEIGHTS, "pytorch_model.bin"),
    "index-traversal": indexed_elsewhere,
    **{f"index-{name}": indexed(content) for name, content in {
        "list": [], "garbage": "{not", "no-map": {"metadata": {}}, "map-list": {"metadata": {}, "weight_map": []},
        "value-number": {"metadata": {}, "weight_map": {"a": 5}}, "shard-missing": {"metadata": {}, "weight_map": {"a": "b.safetensors"}},
        "empty": {"metadata": {}, "weight_map": {}}, "absolute": {"metadata": {}, "weight_map": {"a": "/etc/passwd"}},
    }.items()},
    **{name: damage for name, damage in every_json("tokenizer", "tokenizer.json").items() if name != "tokenizer-missing"},
    **{name: damage for name, damage in every_json("tokenizer-config", "tokenizer_config.json").items()
       if not name.endswith(("missing", "empty-object", "directory", "symlink-loop"))},
    "tokenizer-class-number": with_values("tokenizer_config.json", {"tokenizer_class": 5}),
    "tokenizer-eos-list": with_values("tokenizer_config.json", {"eos_token": ["a"]}),
    "tokenizer-beyond-embedding": with_values("tokenizer_config.json", {"extra_special_tokens": [f"<extra{i}>" for i in range(100)]}),
    **{f"template-{name}": written(TEMPLATE, content) for name, content in {
        "garbage": "{% for %}", "raises": "{{ raise_exception('no') }}", "endless": "{% for i in range(10**9) %}x{% endfor %}",
        "binary": LATIN, "empty-answer": "{{ messages[0].content }}", "no-answer": "x", "python": "{{ ''.__class__.__mro__ }}"}.items()},
    "template-number": both(without(TEMPLATE), with_values("tokenizer_config.json", {"chat_template": 5})),
}  # fmt: skip
ADAPTERS: dict[str, Damage] = {
    **every_json("config", ADAPTER),
    "type-unknown": adapter(peft_type="NOPE"),
    "type-null": adapter(peft_type=None),
    "type-list": adapter(peft_type=["LORA"]),
    "type-prompt": adapter(peft_type="PROMPT_TUNING", num_virtual_tokens=4),
    "base-list": adapter(base_model_name_or_path=["base"]),
    "base-gone": adapter(base_model_name_or_path="/nowhere/at/all"),
    "revision-number": adapter(revision=5),
    **{f"r-{name}": adapter(r=value) for name, value in {"0": 0, "negative": -1, "string": "x", "huge": 10**9, "other": 3, "list": [4],
                                                         "null": None, "float": 1.5}.items()},
    **{f"alpha-{name}": adapter(lora_alpha=value) for name, value in {"nan": float("nan"), "string": "x", "0": 0, "null": None,
                                                                      "inf": float("inf")}.items()},
    **{f"targets-{name}": adapter(target_modules=value) for name, value in {
        "null": None, "number": 5, "more": ["q_proj", "v_proj"], "none": ["nope"], "empty": [], "regex-bad": "[unclosed",
        "norm": ["input_layernorm"], "mapping": {"a": 1}, "numbers": [1, 2]}.items()},
    **{f"init-{name}": adapter(init_lora_weights=name) for name in ("pissa", "olora", "nope")},
    "dora": adapter(use_dora=True),
    "lora-bias": adapter(lora_bias=True),
    "bias-all": adapter(bias="all"),
    "bias-nope": adapter(bias="nope"),
    "rank-pattern-list": adapter(rank_pattern=["a"]),
    "rank-pattern-string": adapter(rank_pattern={"q_proj": "x"}),
    "alpha-pattern-nan": adapter(alpha_pattern={"q_proj": float("nan")}),
    "modules-to-save-nope": adapter(modules_to_save=["nope"]),
    "modules-to-save-number": adapter(modules_to_save=5),
    "layers-beyond": adapter(layers_to_transform=[99], layers_pattern="layers"),
    "parameters-nope": adapter(target_parameters=["nope"]),
    "tokens-beyond": adapter(trainable_token_indices=[10**6]),
    "dropout-2": adapter(lora_dropout=2.0),
    "dropout-string": adapter(lora_dropout="x"),
    "key-unknown": adapter(megatron_config={"a": 1}),
    "weights-missing": without(LORA),
    "weights-empty": written(LORA, ""),
    "weights-cut": cut(LORA),
    "weights-garbage": written(LORA, LATIN * 50),
    "weights-nan": tensors(LORA, filled(float("nan"))),
    "weights-inf": tensors(LORA, filled(float("inf"))),
    "weights-missing-tensors": tensors(LORA, lacking("lora_B")),
    "weights-no-tensors": tensors(LORA, lambda found: {}),
    "weights-extra-tensors": tensors(LORA, lambda found: found | {"base_model.model.nope.lora_A.weight": torch.ones(4, 4)}),
    "weights-other-names": tensors(LORA, lambda found: {f"x.{name}": tensor for name, tensor in found.items()}),
    "weights-transposed": tensors(LORA, lambda found: {name: tensor.T.contiguous() for name, tensor in found.items()}),
    "weights-directory": directory(LORA),
    "weights-pickle-bomb": pickled(LORA, "adapter_model.bin"),
}  # fmt: skip
RUNS: dict[str, Damage] = {  # what lies in an output folder beside the adapter
    **{f"recipe-{name}": written("recipe.yaml", content) for name, content in {
        "list": "- a\n", "garbage": "{a: [", "python-tag": "a: !!python/object/apply:os.system ['touch exploded']\n", "scalar": "hello\n",
        "empty": "", "binary": LATIN, "type": "lora_r: many\n",
        "below-list": "adapter_name_or_path: [a]\n", "mode": "adapter_mode: nope\nadapter_name_or_path: lora\n"}.items()},
    **{f"audit-json-{name}": written("audit.json", content) for name, content in {
        "list": "[]", "empty": "", "garbage": "{", "binary": LATIN, "null": "null"}.items()},
    **{f"report-json-{name}": written("report.json", content) for name, content in {
        "list": "[]", "empty": "", "garbage": "{", "binary": LATIN, "null": "null", "object": "{}"}.items()},
}  # fmt: skip
OF_STEP = (ADAPTER, LORA, "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json", "unlearning_state.safetensors")
CHECKPOINTS: dict[str, Damage] = {
    **{f"{name.partition('.')[0]}-{what}": damage(name) for name in OF_STEP for what, damage in {
        "missing": without, "empty": lambda name: written(name, ""), "cut": cut, "flipped": flipped, "directory": directory,
        "garbage": lambda name: written(name, LATIN * 50)}.items()},
    **every_json("manifest", MANIFEST),
    "manifest-not-resumable": with_values(MANIFEST, {"resumable": False}),
    "optimizer-pickle-bomb": pickled("optimizer.pt", "optimizer.pt"),
    "weights-nan": tensors(LORA, filled(float("nan"))),
    "weights-missing-tensors": tensors(LORA, lacking("lora_B")),
}  # fmt: skip
