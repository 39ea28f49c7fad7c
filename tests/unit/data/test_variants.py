"""Variants are what tokenizing the reworded row alone gives, and stand in the order of rows and columns."""

import pytest
from datasets import Dataset
from tiny_tokenizers import CHATML, byte_level, llama_style

from peft_unlearn.data import tokenize
from peft_unlearn.data.variants import probe
from peft_unlearn.util.errors import UserError

FACTS = [
    {
        "question": "Where does Ann live?",
        "answer": "Ann lives in Oslo.",
        "paraphrased_question": ["Ann's home?", "In which city is Ann at home?"],
        "paraphrased_answer": ["It is Oslo where Ann lives."],
        "perturbed_answer": ["It is Rome.", "It is Lima where Ann lives.", "Bern."],
    },
    {
        "question": "Where does Bob live?",
        "answer": "Rome.",
        "paraphrased_question": None,
        "paraphrased_answer": [],
        "perturbed_answer": ["Oslo."],
    },
    {
        "question": "And Cleo, where?",
        "answer": "Cleo lives in Lima.",
        "paraphrased_question": ["Where would one find Cleo?"],
        "paraphrased_answer": ["Lima is her home."],
        "perturbed_answer": [],
    },
]


def chatty():
    tokenizer = byte_level(["<|im_start|>", "<|im_end|>"], eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    return tokenizer


def alone(row: dict, tokenizer) -> dict:
    return tokenize(Dataset.from_list([row]), tokenizer, 64, name="alone").rows[0]


@pytest.mark.parametrize("make", [byte_level, llama_style, chatty])
def test_variants_are_the_reworded_rows_tokenized_alone(make):
    tokenizer = make(eos_token="</s>") if make is byte_level else make()
    found = probe(Dataset.from_list(FACTS), tokenizer, 64, name="forget_dataset")
    assert list(found.rows) == [alone({key: row[key] for key in ("question", "answer")}, tokenizer) for row in FACTS]
    assert list(found.variants) == ["paraphrased_question", "paraphrased_answer", "perturbed_answer"]
    for kind, groups in found.variants.items():
        side = kind.split("_")[1]
        for row, group in zip(FACTS, groups, strict=True):
            texts = {"question": row["question"], "answer": row["answer"]}
            assert group == [alone({**texts, side: text}, tokenizer) for text in row[kind] or []]


def test_text_null_and_missing_columns():
    rows = Dataset.from_list(
        [
            {"prompt": "2 + 2 =", "completion": " 4", "paraphrased_completion": " four", "paraphrased_prompt": None},
            {"prompt": "3 + 3 =", "completion": " 6", "paraphrased_completion": None, "paraphrased_prompt": "6 ="},
        ]
    )
    tokenizer = byte_level(eos_token="</s>")
    found = probe(rows, tokenizer, 64, name="forget_dataset")
    assert set(found.variants) == {"paraphrased_question", "paraphrased_answer"}
    assert found.variants["paraphrased_answer"] == [[alone({"prompt": "2 + 2 =", "completion": " four"}, tokenizer)], []]
    assert found.variants["paraphrased_question"] == [[], [alone({"prompt": "6 =", "completion": " 6"}, tokenizer)]]


def test_a_set_without_variants_is_its_rows_alone():
    tokenizer = byte_level(eos_token="</s>")
    rows = Dataset.from_list([{"text": "Ann lives in Oslo. " * 20, "perturbed_answer": "no question here"}])
    found = probe(rows, tokenizer, 32, name="forget_dataset")
    assert found.variants == {}
    assert list(found.rows) == list(tokenize(rows, tokenizer, 32, name="x").rows)
    assert len(found.rows) > 1
    nulls = Dataset.from_dict({"question": ["a b"], "answer": ["c"], "perturbed_answer": [None]})
    assert probe(nulls, tokenizer, 32, name="x").variants == {"perturbed_answer": [[]]}


def test_arguments_of_the_template_reach_rows_and_variants():
    tokenizer = chatty()
    tokenizer.chat_template = "{% if loud %}LOUD {% endif %}" + CHATML
    found = probe(Dataset.from_list(FACTS), tokenizer, 64, name="x", template_arguments={"loud": True})
    for row in (found.rows[0], found.variants["perturbed_answer"][0][0], found.variants["paraphrased_question"][2][0]):
        assert tokenizer.decode(row["input_ids"]).startswith("LOUD")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("perturbed_answer", [[1], [3]], "row 1: perturbed_answer is neither text nor a list"),
        ("perturbed_answer", [["a", None], ["b"]], "row 1: perturbed_answer is neither text nor a list"),
        ("paraphrased_question", [1, 2], "row 1: paraphrased_question is neither text"),
        ("paraphrased_answer", ["fine", " "], "row 2: paraphrased_answer holds an empty text"),
        ("perturbed_answer", [["fine"], ["fine", ""]], "row 2: perturbed_answer holds an empty text"),
        ("paraphrased_question", ["fine", "long " * 99], r"\.paraphrased_question: row 2: max_length"),
    ],
)
def test_a_variant_that_cannot_be_used_is_named_by_column_and_row(column, values, message):
    rows = Dataset.from_dict({"question": ["a b", "c d"], "answer": ["e", "f"], column: values})
    with pytest.raises(UserError, match=f"forget_dataset.*{message}"):
        probe(rows, byte_level(eos_token="</s>"), 32, name="forget_dataset")


def test_variants_beside_conversations_are_refused():
    turns = [{"role": "user", "content": "Where?"}], [{"role": "assistant", "content": "Oslo."}]
    rows = Dataset.from_list([{"prompt": turns[0], "completion": turns[1], "perturbed_completion": "Rome."}])
    with pytest.raises(UserError, match="row 1: perturbed_completion stands beside lists of messages"):
        probe(rows, chatty(), 64, name="forget_dataset")
