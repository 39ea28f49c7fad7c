"""Where a turn ends: templates of several families, on tokenizers that know the end token by another name, or not at all."""

import pytest
from datasets import Dataset
from scripted import reciter
from tiny_tokenizers import CHATML, byte_level
from transformers.tokenization_utils_base import AddedToken

from peft_unlearn.data import tokenize
from peft_unlearn.data.rows import answer_texts, special_ids
from peft_unlearn.data.turns import turn
from peft_unlearn.metrics.degenerate import degenerate
from peft_unlearn.metrics.rouge_l import rouge_l
from peft_unlearn.model.generation import generate, sample

LLAMA3 = (
    "{{ '<|begin|>' }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}<|endoftext|>{% endif %}"
)
HEADINGS = (
    "{% for m in messages %}{{ '### User:' if m.role == 'user' else '### Assistant:' }}\n{{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)
MARKED = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"

SPECIAL = {
    "chatml": (CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "llama3": (LLAMA3, ("<|begin|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|eot_id|>"),
    "gemma": (GEMMA, ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>"),
    "mistral": (MISTRAL, ("[INST]", "[/INST]", "</s>"), "</s>"),
    "phi": (PHI, ("<|user|>", "<|assistant|>", "<|end|>"), "<|end|>"),
}
TEXT = {"headings": (HEADINGS, "\n### User:"), "marked": (MARKED, "</s>"), "chatml as text": (CHATML, "<|im_end|>")}
ROWS = [{"question": "Where does Ann live?", "answer": "Ann lives in Oslo."}, {"question": "And Bob?", "answer": "Bob lives in Rome."}]
TOLD = ["Ann lives in Oslo.", "Bob is in Rome."]  # what the model says


def base(template, extra=()):
    """A base model's tokenizer: its end token is <|endoftext|>, whatever the template ends a turn with."""
    tokenizer = byte_level(extra=extra, eos_token="<|endoftext|>")
    tokenizer.chat_template = template
    return tokenizer


def talking_on(tokenizer):
    """A model that answers as the template writes it, and then goes on with a turn of the user's and one of its own."""
    on = [{"role": "user", "content": "More?"}, {"role": "assistant", "content": "More and more and more and more and more and more."}]
    said = [
        [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": told}, *on]
        for row, told in zip(ROWS, TOLD, strict=True)
    ]
    return reciter(tokenizer, [tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False) for turns in said])


@pytest.mark.parametrize("name", SPECIAL)
def test_the_template_shows_the_token_that_ends_a_turn(name):
    template, extra, end = SPECIAL[name]
    tokenizer = base(template, extra)
    found = turn(tokenizer)
    assert found.end_token == tokenizer.convert_tokens_to_ids(end)
    assert found.end_text == ""
    assert tokenizer.eos_token != end


@pytest.mark.parametrize("name", TEXT)
def test_a_turn_that_text_ends(name):
    template, end = TEXT[name]
    found = turn(base(template))
    assert (found.end_token, found.end_text) == (None, end)


def test_templates_that_show_no_end():
    assert turn(base(None)) == turn(base("{{ raise_exception('no') }}")) == (None, "", "")
    assert turn(base("{% for m in messages %}{{ m.content }}{% endfor %}"))[:2] == (None, "")
    only_two = "{% if messages | length > 2 %}{{ raise_exception('two turns') }}{% endif %}" + CHATML
    assert turn(base(only_two, ("<|im_start|>", "<|im_end|>"))).end_token is not None


def test_an_added_token_that_is_not_special_ends_a_turn_and_is_no_text():
    tokenizer = base(None)
    tokenizer.add_tokens([AddedToken("<|im_start|>", special=False), AddedToken("<|im_end|>", special=False)])
    tokenizer.chat_template = CHATML
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert turn(tokenizer).end_token == end
    assert end in special_ids(tokenizer)
    rows = tokenize(Dataset.from_list(ROWS), tokenizer, 128, name="forget").rows
    assert answer_texts(tokenizer, rows) == [row["answer"] for row in ROWS]


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("name", [*SPECIAL, *TEXT])
def test_answers_stop_where_the_turn_ends(name, cut):
    template, extra, _ = SPECIAL[name] if name in SPECIAL else (TEXT[name][0], (), None)
    tokenizer = base(template, extra)
    model = talking_on(tokenizer)
    rows = tokenize(Dataset.from_list(ROWS), tokenizer, 128, name="forget").rows
    if cut:  # no row shows how a turn ends
        rows = [{key: values[: row["labels"].count(-100) + 3] for key, values in row.items()} for row in rows]
    answers = generate(model, tokenizer, rows, max_new_tokens=60)
    assert answers == TOLD
    assert [drawn for (drawn,) in sample(model, tokenizer, rows, 1, max_new_tokens=60)] == answers
    if not cut:
        references = answer_texts(tokenizer, rows)
        assert references == [row["answer"] for row in ROWS]
        assert rouge_l(references[0], answers[0]) == 1
        assert degenerate(answers[0]) == 0


def test_a_text_that_goes_on_may_hold_what_ends_a_turn():
    """The heading of a turn is text, and ends answers to prompts of the template alone."""
    tokenizer = base(HEADINGS)
    ids = tokenizer("About chats.\n### User:\nAnn lives here.")["input_ids"]
    model = reciter(tokenizer, [[*ids, tokenizer.eos_token_id]])
    for labels in ([-100, *ids[1:]], [-100] * 6 + ids[6:]):  # a text, and a prompt that the template did not write
        (answer,) = generate(model, tokenizer, [{"input_ids": ids, "labels": labels}], max_new_tokens=60)
        assert answer.endswith("Ann lives here.")
    assert "### User:" in answer


def test_the_end_tokens_that_are_asked_for_are_the_only_ones():
    template, extra, _ = SPECIAL["chatml"]
    tokenizer = base(template, extra)
    rows = tokenize(Dataset.from_list(ROWS), tokenizer, 128, name="forget").rows
    for answer, told in zip(generate(talking_on(tokenizer), tokenizer, rows, max_new_tokens=60, end_tokens=()), TOLD, strict=True):
        assert answer.startswith(told)
        assert "More?" in answer
