"""benchmarks/neutral.py: what it says of an adapter is what transformers and PEFT say of it, one question at a time."""

import json

import neutral
import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from peft_unlearn.util.errors import UserError

NUMBERS = ["one", "two", "three", "four", "five", "six"]


@pytest.fixture
def questions(tmp_path):
    """Two files, as TOFU's are two."""
    rows = [
        {
            "question": f"what is the colour of {number} ?",
            "answer": "red " + number,
            "perturbed_answer": [f"blue {number}", f"green {number}"],
        }
        for number in NUMBERS
    ]
    for name, some in (("a.json", rows[:4]), ("b.json", rows[4:])):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in some))
    return rows, [str(tmp_path / "a.json"), str(tmp_path / "b.json")]


def logps(model, tokenizer, question, answer):
    """Of the answer's tokens after its question, the end last."""
    prompt = tokenizer(f"Question: {question}\nAnswer:", add_special_tokens=False)["input_ids"]
    ids = [*prompt, *tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        found = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return np.array([found[place - 1, ids[place]].item() for place in range(len(prompt), len(ids))])


@pytest.fixture
def strong(bed, tmp_path):
    """An adapter that says other things than its base."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bed / "base"), bed / "lora")
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=10.0)
    model.save_pretrained(tmp_path / "strong")
    return tmp_path / "strong"


def test_it_is_what_each_question_says_alone(bed, strong, questions):
    rows, files = questions
    tokenizer = AutoTokenizer.from_pretrained(bed / "base")
    base = AutoModelForCausalLM.from_pretrained(bed / "base", dtype=torch.float32).eval()

    def alone(model):
        right, likely = [], []
        for row in rows:
            own, *wrong = (logps(model, tokenizer, row["question"], answer) for answer in (row["answer"], *row["perturbed_answer"]))
            right.append(own[:-1].sum() > max(other[:-1].sum() for other in wrong))
            likely.append(np.exp(own.mean()))
        return np.mean(right), np.mean(likely)

    before = alone(base)
    after = alone(PeftModel.from_pretrained(base, strong).eval())
    found = neutral.compare(str(strong), files)
    assert found["questions"]["n"] == 6
    for place, name in enumerate(("accuracy", "probability")):
        assert found[name]["before"] == pytest.approx(before[place], rel=1e-4)
        assert found[name]["after"] == pytest.approx(after[place], rel=1e-4)
        assert found[name]["change"] == pytest.approx(after[place] - before[place], abs=1e-6)
        assert found[name]["interval"][0] <= found[name]["change"] <= found[name]["interval"][1]
    assert before[1] != pytest.approx(after[1], rel=1e-3), "the adapter changes something"
    assert 0 <= found["unchanged answers"]["after"] < 1


def test_the_interval_of_a_share_is_about_the_normal_one():
    low, high = neutral.interval([True] * 60 + [False] * 140)
    reach = 1.96 * (0.3 * 0.7 / 200) ** 0.5
    assert (low, high) == (pytest.approx(0.3 - reach, abs=0.01), pytest.approx(0.3 + reach, abs=0.01))
    assert neutral.interval([0.25] * 9) == (0.25, 0.25)


def test_what_it_cannot_compare_is_refused(bed, questions):
    with pytest.raises(UserError, match="^adapter: .* is a whole model"):
        neutral.compare(str(bed / "base"), questions[1])
    with pytest.raises(UserError, match="^questions: one has no wrong choices"):
        neutral.compare(str(bed / "lora"), [str(bed / "forget.jsonl")])
