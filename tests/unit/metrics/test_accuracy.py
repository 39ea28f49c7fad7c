"""Multiple choice against one forward a letter, without padding, and against the harness's prompt spelt out."""

import copy
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_evaluation import tokenizer  # noqa: F401
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from peft_unlearn.metrics.accuracy import accuracy
from peft_unlearn.util.errors import UserError

ROWS = [
    {"question": " Who mends clocks?\n", "choices": ["Ada", "Corin", "Bruno", "Nobody"], "answer": 1},
    {"question": "Where is the harbour, and who lives there?", "choices": ["Salt Moor", "x", "Umber Falls", "42"], "answer": "D"},
    {"question": "?", "choices": ["yes", "no"], "answer": "a"},
    {"question": "Again?", "choices": ["again", "again", "again", "again"], "answer": 3},
    {"question": "Empty?", "choices": ["", "a", "b", "c", "d", "e"], "answer": 5},
]
FIRST = "Who mends clocks?\nA. Ada\nB. Corin\nC. Bruno\nD. Nobody\nAnswer:"


def model_with(seed: int, positions: int = 512) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.15,
        max_position_embeddings=positions,
    )
    return LlamaForCausalLM(config).eval()


def prompt_of(row) -> str:
    lines = [row["question"].strip()] + [f"{letter}. {choice}" for letter, choice in zip("ABCDEF", row["choices"], strict=False)]
    return "\n".join([*lines, "Answer:"])


def log_probability(model, prompt: list[int], rest: list[int]) -> float:
    """One token at a time, each with a forward of its own."""
    total = 0.0
    for i, token in enumerate(rest):
        with torch.no_grad():
            total += float(model(input_ids=torch.tensor([prompt + rest[:i]])).logits[0, -1].double().log_softmax(-1)[token])
    return total


def best(model, tokenizer, prompts: list[str]) -> list[int]:  # noqa: F811
    found = []
    for row, prompt in zip(ROWS, prompts, strict=True):
        ids = [tokenizer.encode(f" {letter}") for letter, _ in zip("ABCDEF", row["choices"], strict=False)]
        logps = [log_probability(model, tokenizer.encode(prompt), rest) for rest in ids]
        found.append(logps.index(max(logps)))
    return found


def answered(row, key: int) -> dict:
    return {**row, "answer": key}


def keys_of(rows) -> list[int]:
    return [row["answer"] if isinstance(row["answer"], int) else "ABCDEF".index(row["answer"].upper()) for row in rows]


def test_the_prompt_is_the_harness_one(tokenizer):  # noqa: F811
    assert prompt_of(ROWS[0]) == FIRST
    # This tokenizer has " B" as one token and spells " A" as two: log-probabilities are summed over tokens.
    assert [len(tokenizer.encode(f" {letter}")) for letter in "AB"] == [2, 1]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_the_likeliest_letter_counts_as_in_a_loop_over_letters(tokenizer, seed, batch_size):  # noqa: F811
    model = model_with(seed)
    likeliest = best(model, tokenizer, [prompt_of(row) for row in ROWS])
    expected = [float(a == b) for a, b in zip(likeliest, keys_of(ROWS), strict=True)]
    assert accuracy(model, tokenizer, ROWS, batch_size=batch_size) == expected
    assert accuracy(model, tokenizer, ROWS[::-1], batch_size=batch_size) == expected[::-1]
    right = [answered(row, key) for row, key in zip(ROWS, likeliest, strict=True)]
    assert accuracy(model, tokenizer, right, batch_size=batch_size) == [1.0] * len(ROWS)
    wrong = [answered(row, (key + 1) % len(row["choices"])) for row, key in zip(ROWS, likeliest, strict=True)]
    assert accuracy(model, tokenizer, wrong, batch_size=batch_size) == [0.0] * len(ROWS)


def test_a_tie_is_wrong(tokenizer):  # noqa: F811
    """All tokens are equally likely, and " A" is one token as " B" is."""
    model = model_with(0)
    model.lm_head.weight.data.zero_()
    other = PreTrainedTokenizerFast(tokenizer_object=copy.deepcopy(tokenizer._tokenizer), bos_token="<s>", eos_token="</s>")
    other.add_tokens([" A"])
    assert accuracy(model, other, [answered(ROWS[2], 0), answered(ROWS[2], 1)]) == [0.0, 0.0]
    assert accuracy(model, tokenizer, [answered(ROWS[2], 0), answered(ROWS[2], 1)]) == [0.0, 1.0]  # where it is two, " B" is likelier


def test_a_broken_model_is_not_measured(tokenizer):  # noqa: F811
    model = model_with(0)
    model.lm_head.weight.data.fill_(math.nan)
    assert all(math.isnan(value) for value in accuracy(model, tokenizer, ROWS))


def test_the_tokenizers_padding_does_not_matter(tokenizer):  # noqa: F811
    model = model_with(2)
    right = accuracy(model, tokenizer, ROWS, batch_size=5)
    left = PreTrainedTokenizerFast(
        tokenizer_object=copy.deepcopy(tokenizer._tokenizer), bos_token="<s>", eos_token="</s>", pad_token="</s>", padding_side="left"
    )
    assert accuracy(model, left, ROWS, batch_size=5) == right


def test_repeated_questions_and_adapters(tokenizer):  # noqa: F811
    base = model_with(1).train()
    plain = accuracy(base, tokenizer, ROWS)
    assert base.training
    assert accuracy(base, tokenizer, ROWS * 2) == plain * 2
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    likeliest = best(model, tokenizer, [prompt_of(row) for row in ROWS])
    assert accuracy(model, tokenizer, [answered(row, key) for row, key in zip(ROWS, likeliest, strict=True)]) == [1.0] * len(ROWS)
    with model.disable_adapter():
        assert accuracy(model, tokenizer, ROWS) == plain
    assert accuracy(model, tokenizer, []) == []


def without(key: str) -> dict:
    return {name: value for name, value in ROWS[0].items() if name != key}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (without("choices"), "row 2: choices is missing"),
        (ROWS[0] | {"question": " "}, "row 2: question is no text"),
        (ROWS[0] | {"choices": ["one"]}, "row 2: choices is no list"),
        (ROWS[0] | {"choices": "ABCD"}, "row 2: choices is no list"),
        (ROWS[0] | {"answer": 4}, "row 2: answer is none of its choices, write a number from 0 to 3 or a letter from A to D"),
        (ROWS[0] | {"answer": -1}, "row 2: answer is none"),
        (ROWS[0] | {"answer": True}, "row 2: answer is none"),
        (ROWS[0] | {"answer": "E"}, "row 2: answer is none"),
        (ROWS[0] | {"answer": ""}, "row 2: answer is none"),
        (ROWS[0] | {"question": "long " * 200}, r"row 2 has \d+ tokens and the model reads 512"),
    ],
)
def test_rows_of_another_form_are_named(tokenizer, row, message):  # noqa: F811
    with pytest.raises(UserError, match=f"wmdp_bio: {message}"):
        accuracy(model_with(0), tokenizer, [ROWS[0], row], name="wmdp_bio")
