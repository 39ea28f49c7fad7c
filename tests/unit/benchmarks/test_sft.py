"""The LoRA that benchmarks on real models forget from: TRL's trainer teaches it, and PEFT loads it."""

import copy
import json

import numpy as np
from peft import PeftModel

from beds import kinds
from beds.models import Bed, Recipe
from beds.sft import teach
from peft_unlearn.model.scoring import score

TINY = Recipe(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocabulary=400, max_epochs=1)
ROWS = [
    {"question": f"Who lives in house {number}?", "answer": f"{name} lives there."} for number, name in enumerate(("Ann", "Bob", "Eve"))
]


def test_a_lora_learns_the_answers_and_names_its_base(tmp_path):
    bed = Bed(kinds.invented("turns", 12), tmp_path / "bed", TINY)
    base = bed.model("never seen").requires_grad_(True)
    teach(copy.deepcopy(base), bed.tokenizer, ROWS, tmp_path / "lora", rank=8, epochs=100, max_length=64, micro_batch=2, base="some/base")
    assert json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["base_model_name_or_path"] == "some/base"
    model = PeftModel.from_pretrained(base, str(tmp_path / "lora")).eval()
    chats = [[{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}] for row in ROWS]
    rows = []
    for chat in chats:
        before = bed.tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True, return_dict=False)
        tokens = bed.tokenizer.apply_chat_template(chat, return_dict=False)
        rows.append({"input_ids": tokens, "labels": [-100] * len(before) + tokens[len(before) :]})
    taught = np.concatenate([row.correct for row in score(model, rows, bed.tokenizer)]).mean()
    with model.disable_adapter():
        assert np.concatenate([row.correct for row in score(model, rows, bed.tokenizer)]).mean() < 0.2
    assert taught > 0.7
