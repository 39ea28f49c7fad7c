"""The forms of adapters that PEFT writes, which of them are exact and which are refused; `tests/unit/model/test_adapter_forms.py` holds it.

`python tests/helpers/adapter_forms.py > docs/reference/adapter-forms.md` writes the table.
"""

import sys

from peft import PeftType

ATTENTION = ["q_proj", "v_proj"]
FORMS = {
    "plain": {},
    "all linear": {"target_modules": "all-linear"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "rank and alpha patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.v_proj": 3}},
    "some layers": {"layers_to_transform": [1]},
    "names by a pattern": {"target_modules": r".*layers\.1\..*(q_proj|up_proj)"},
    "all linear but some": {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
    "names that PEFT knows": {"target_modules": None},
    "no task": {"task_type": None},
    "DoRA of embeddings": {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True},
    "head and whole embeddings": {"target_modules": ["lm_head", "q_proj"], "modules_to_save": ["embed_tokens"]},
    "whole norms": {"modules_to_save": ["input_layernorm"]},
    "rows of embeddings and head": {"trainable_token_indices": {"embed_tokens": [3, 4], "lm_head": [5]}},
    "rank over the size": {"r": 100},
    "biases of factors": {"lora_bias": True},
    "dropout": {"lora_dropout": 0.5},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "embeddings, tied": {"target_modules": ["embed_tokens", "q_proj"]},
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "head, tied": {"target_modules": ["lm_head", "q_proj"]},
    "whole head": {"modules_to_save": ["lm_head"]},
    "whole head and embeddings, tied": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "whole block": {"modules_to_save": ["mlp", "norm"]},
    "rows of embeddings": {"trainable_token_indices": [3, 4, 9]},
    "rows of embeddings, tied": {"trainable_token_indices": [3, 4, 9]},
    "added tokens, whole": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "added tokens, resized": {},
    "added tokens, resized, tied": {},
    "experts": {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
}
# Forms that are refused by the first of these fields.
REFUSED = {
    "PiSSA": {"init_lora_weights": "pissa"},
    "PiSSA in steps": {"init_lora_weights": "pissa_niter_4"},
    "OLoRA": {"init_lora_weights": "olora"},
    "CorDA": {"init_lora_weights": "corda"},
    "LoftQ": {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}},
    "LoRA-GA": {"init_lora_weights": "lora_ga"},
    "bias all": {"bias": "all"},
    "bias of LoRA": {"bias": "lora_only"},
    "copies kept tied": {"ensure_weight_tying": True, "modules_to_save": ["lm_head", "embed_tokens"]},
    "doubled layers": {"layer_replication": [[0, 2], [1, 2]]},
    "activated": {"alora_invocation_tokens": [3, 4]},
    "QALoRA": {"use_qalora": True},
    "block-diagonal": {"use_bdlora": {"nblocks": 2}},
    "Arrow": {"arrow_config": {"top_k": 2}},
    "KaSA": {"kasa_config": {"beta": 1e-4}},
    "MonteCLoRA": {"monteclora_config": {"num_samples": 2}},
    "VeLoRA": {"velora_config": {"num_groups": 2}},
    "Megatron": {"megatron_config": {"tensor_model_parallel_size": 2}},
}
# What `merge` cannot write shard by shard, and says so.
UNMERGED = (
    *("DoRA", "DoRA of embeddings", "biases of factors"),
    *("rows of embeddings", "rows of embeddings, tied", "rows of embeddings and head"),
)
MODES = ("stack", "continue", "merge")
NO_MERGE_BELOW = ("biases of factors",)  # the base's layers have no bias that it could go into


def table():
    """docs/reference/adapter-forms.md."""
    refused = len(NO_MERGE_BELOW)
    exact = len(FORMS) * len(MODES) - refused
    unmerged = sum(form in UNMERGED for form in FORMS) * len(MODES) - refused
    rows = [
        "| "
        + " | ".join([form, *("refused" if mode == "merge" and form in NO_MERGE_BELOW else "exact" for mode in MODES)])
        + f" | {'refused' if form in UNMERGED else 'exact'} |"
        for form in FORMS
    ]
    return f"""# Forms of adapters

Written by `python tests/helpers/adapter_forms.py > docs/reference/adapter-forms.md`; `tests/unit/model/test_adapter_forms.py` holds it.

Of {len(FORMS)} forms of LoRA that PEFT writes, in {len(MODES)} values of `adapter_mode`,
{exact} of {exact + refused} are exact and {refused} refused. Exact means: student, teacher, reference and
never-seen model give the logits of plain PEFT to 1e-5, after attaching and training, and after saving and loading.
`peft-unlearn merge` writes {exact - unmerged} of these as a model that says the same to 1e-5, and refuses {unmerged}.

{len(REFUSED)} more forms change the base, or what is computed with it, and are refused in a sentence before a model is loaded, and so are the
{len(PeftType) - 1} kinds of adapters of PEFT that are no LoRA.

| form | {" | ".join(f"`{mode}`" for mode in MODES)} | the file of `merge` |
| --- | --- | --- | --- | --- |
{chr(10).join(rows)}

| refused | by its key |
| --- | --- |
{chr(10).join(f"| {form} | `{next(iter(fields))}` |" for form, fields in REFUSED.items())}
"""


if __name__ == "__main__":
    sys.stdout.write(table())
