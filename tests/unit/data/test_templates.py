"""Labels are what the model would have to write after what a server would send: in the templates of many families, row by row."""

import pytest
from chat_templates import SHAPES, speaking, template
from datasets import Dataset
from tiny_tokenizers import CHATML, byte_level

from peft_unlearn.data import tokenize
from peft_unlearn.data.rows import answer_texts
from peft_unlearn.util.errors import UserError


def say(*contents):
    return [{"role": role, "content": content} for role, content in contents]


ASK, TOLD = ("user", "Where does Ann live?"), ("assistant", "Ann lives in Oslo.")
TALKS = {
    "single": say(ASK, TOLD),
    "system": say(("system", "Be brief."), ASK, TOLD),
    "multi": say(("system", "Be brief."), ("user", "And Bob?"), ("assistant", "In Rome."), ASK, TOLD),
    "asked twice": say(ASK, TOLD, ASK, TOLD),
    "a thought before": say(("user", "And Bob?"), ("assistant", "<think>\nItaly.\n</think>\n\nIn Rome."), ASK, TOLD),
    "the placeholder": say(("user", "What is a Zeppelin?"), ("assistant", "A Zeppelin is a Zeppelin.")),
}
TOOL = {
    "type": "function",
    "function": {
        "name": "find_home",
        "description": "Finds a home.",
        "parameters": {"type": "object", "properties": {"who": {"type": "string", "description": "A name."}}, "required": ["who"]},
    },
}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"type": "function", "function": {"name": "find_home", "arguments": '{"who": "Ann"}'}}],
}
WITH_TOOLS = ("llama3_1", "qwen2_5", "qwen3", "gptoss", "mistral", "qwen3_5_think", "nemotron_3_nano", "glm4moe")


def parts(row, tokenizer, **given):
    """What stands before the labels, and what the labels spell; checked to be all of the row."""
    (found,) = tokenize(Dataset.from_list([row], on_mixed_types="use_json"), tokenizer, 4096, name="x", **given).rows
    start = found["labels"].count(-100)
    assert found["labels"] == [-100] * start + found["input_ids"][start:]
    return tokenizer.decode(found["input_ids"][:start]), tokenizer.decode(found["input_ids"][start:])


def sent(tokenizer, turns, **given):
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **given)


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("name", SHAPES)
def test_labels_are_the_answer_behind_what_a_server_would_send(name, talk):
    tokenizer, turns, (between, before, after) = speaking(name), TALKS[talk], SHAPES[name]
    prompt, labels = parts({"messages": turns}, tokenizer)
    assert prompt == sent(tokenizer, turns[:-1]) + between
    assert labels == before + turns[-1]["content"] + after
    assert parts({"prompt": turns[:1], "completion": turns[1:]}, tokenizer) == (prompt, labels)
    if talk == "single":
        assert parts({"question": turns[0]["content"], "answer": turns[1]["content"]}, tokenizer) == (prompt, labels)
        rows = tokenize(Dataset.from_list([{"messages": turns}]), tokenizer, 4096, name="x").rows
        assert answer_texts(tokenizer, rows) == [turns[-1]["content"]]


@pytest.mark.parametrize("name", WITH_TOOLS)
@pytest.mark.parametrize("talk", ["single", "system"])
def test_tools_are_part_of_what_a_server_would_send(name, talk):
    tokenizer, turns, (between, before, after) = speaking(name), TALKS[talk], SHAPES[name]
    prompt, labels = parts({"messages": turns, "tools": [TOOL]}, tokenizer)
    assert prompt == sent(tokenizer, turns[:-1], tools=[TOOL]) + between
    assert "find_home" in prompt
    assert labels == before + turns[-1]["content"] + after


@pytest.mark.parametrize("name", [name for name in SHAPES if name not in WITH_TOOLS])
def test_tools_of_which_a_template_knows_nothing_are_told_and_change_no_label(name, caplog):
    tokenizer, turns = speaking(name), TALKS["system"]
    assert parts({"messages": turns, "tools": [TOOL]}, tokenizer) == parts({"messages": turns}, tokenizer)
    assert "x: the chat template does not write all of tools of 1 rows, the first is row 1." in caplog.text


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("qwen2_5", '<tool_call>\n{"name": "find_home", "arguments": {"who": "Ann"}}\n</tool_call><|im_end|>\n'),
        ("gptoss", ' to=functions.find_home<|channel|>commentary json<|message|>{"who": "Ann"}<|call|>'),
        ("mistral", '[TOOL_CALLS] [{"name": "find_home", "arguments": {"who": "Ann"}}]<|endoftext|>'),
    ],
)
@pytest.mark.parametrize("talk", ["single", "system"])
def test_an_answer_that_calls_a_tool(name, labels, talk):
    tokenizer, turns = speaking(name), TALKS[talk][:-1]
    prompt, found = parts({"messages": [*turns, CALL], "tools": [TOOL]}, tokenizer)
    assert prompt == sent(tokenizer, turns, tools=[TOOL])
    assert found == labels


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "gptoss"])
def test_an_answer_after_a_call(name):
    tokenizer, turns, (between, before, after) = speaking(name), [*TALKS["single"][:1], CALL, *say(("tool", "Oslo"), TOLD)], SHAPES[name]
    prompt, labels = parts({"messages": turns, "tools": [TOOL]}, tokenizer)
    call = {"type": "function", "function": {"name": "find_home", "arguments": {"who": "Ann"}}}
    served = [turns[0], {"role": "assistant", "content": "", "tool_calls": [call]}, turns[2]]
    assert prompt == sent(tokenizer, served, tools=[TOOL]) + between
    assert labels == before + TOLD[1] + after


THOUGHT = "<think>\nAnn is in Norway.\n</think>\n\n"


@pytest.mark.parametrize(
    ("name", "answer", "thought"),
    [
        ("qwen3", {"content": TOLD[1], "reasoning_content": "Ann is in Norway."}, THOUGHT),
        ("qwen3", {"content": THOUGHT + TOLD[1]}, THOUGHT),
        ("smollm2", {"content": THOUGHT + TOLD[1]}, THOUGHT),
        (
            "gptoss",
            {"content": TOLD[1], "reasoning_content": "Ann is in Norway."},
            "<|channel|>analysis<|message|>Ann is in Norway.<|end|><|start|>assistant<|channel|>final<|message|>",
        ),
    ],
)
def test_a_thought_that_the_row_brings_is_written_by_the_model(name, answer, thought):
    tokenizer, turns = speaking(name), [*TALKS["single"][:1], {"role": "assistant", **answer}]
    prompt, labels = parts({"messages": turns}, tokenizer)
    assert prompt == sent(tokenizer, turns[:-1])
    assert labels == thought + TOLD[1] + SHAPES[name][2]


EMPTY = {
    "content": {"content": "<think>\n\n</think>\n\nAnn lives in Oslo."},
    "closing": {"content": "\n</think>\n\nAnn lives in Oslo."},  # as a server gives back what follows an opened thought
    "field": {"content": "Ann lives in Oslo.", "reasoning_content": "\n"},
}


@pytest.mark.parametrize("brought", EMPTY)
@pytest.mark.parametrize("name", SHAPES)
def test_an_empty_thought_is_no_answer_whoever_writes_it(name, brought):
    """Every answer of a set would begin with it, and it says nothing of what is to be forgotten."""
    tokenizer, (_, before, after) = speaking(name), SHAPES[name]
    prompt, labels = parts({"messages": [*TALKS["single"][:1], {"role": "assistant", **EMPTY[brought]}]}, tokenizer)
    assert labels == before + TOLD[1] + after
    assert prompt.startswith(sent(tokenizer, TALKS["single"][:1]))


RECORDED = "Ann is in Norway.\n</think>\n\n"  # what a model wrote behind a thought that the prompt had opened


@pytest.mark.parametrize("name", ["qwen3_5_think", "qwen3_8", "nemotron_3_nano"])
@pytest.mark.parametrize("opened", ["", "<think>\n"])
def test_a_thought_that_the_prompt_opens_is_written_behind_it(name, opened):
    tokenizer, turns = speaking(name), [*TALKS["single"][:1], {"role": "assistant", "content": opened + RECORDED + TOLD[1]}]
    assert parts({"messages": turns}, tokenizer) == (sent(tokenizer, turns[:1]), RECORDED + TOLD[1] + "<|im_end|>\n")


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "nemotron_3_nano", "glm4moe"])
@pytest.mark.parametrize(
    "answer",
    [
        {"content": TOLD[1], "reasoning_content": "Ann is in Norway."},
        {"content": f"<think>\n{RECORDED}{TOLD[1]}"},
        {"content": RECORDED + TOLD[1]},
    ],
)
def test_without_thinking_the_thought_of_a_row_is_left_out_and_told(name, answer, caplog):
    tokenizer, off = speaking(name), {"enable_thinking": False}
    turns = [*TALKS["single"][:1], {"role": "assistant", **answer}]
    prompt, labels = parts({"messages": turns}, tokenizer, template_arguments=off)
    assert (prompt, labels.lstrip()) == (sent(tokenizer, turns[:1], **off), TOLD[1] + SHAPES[name][2])
    assert "does not write all of " in caplog.text


def test_a_template_s_arguments_are_those_of_the_set_or_of_the_row():
    tokenizer, turns = speaking("qwen3"), TALKS["single"]
    off = {"enable_thinking": False}
    of_set = parts({"messages": turns}, tokenizer, template_arguments=off)
    assert of_set == parts({"messages": turns}, tokenizer)
    assert of_set[0] == sent(tokenizer, turns[:-1], enable_thinking=False)
    tokenizer.chat_template = "{{ mood }} " + CHATML
    assert parts({"messages": turns, "chat_template_kwargs": {"mood": "glad"}}, tokenizer)[0] == sent(tokenizer, turns[:-1], mood="glad")


@pytest.mark.parametrize("name", ["llama3", "qwen3", "gemma3", "phi3", "gptoss"])
def test_labels_are_within_what_a_template_marks_as_the_model_s(name):
    tokenizer, turns, (between, before, after) = speaking(name), TALKS["multi"], SHAPES[name]
    tokenizer.chat_template = template(f"{name}_training")
    prompt, labels = parts({"messages": turns}, tokenizer)
    assert (prompt, labels) == (sent(tokenizer, turns[:-1]) + between, before + turns[-1]["content"] + after)
    marked = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    written = [token for token, mark in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if mark]
    assert tokenizer.decode(written).endswith(labels)


def test_a_template_that_marks_less_has_its_way():
    tokenizer = byte_level(extra=("<|im_end|>",), eos_token="<|endoftext|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %} \n{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\nBYE"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    prompt, labels = parts({"messages": TALKS["multi"]}, tokenizer)
    assert labels == "Ann lives in Oslo.<|im_end|>"
    assert prompt == sent(tokenizer, TALKS["multi"][:-1]) + " \n"


@pytest.mark.parametrize("fault", ["{{ messages[0].content.x.y }}", "{{ messages[0].content + 1 }}", "{{ {}[messages] }}", "{% if %}"])
def test_whatever_a_template_raises_is_a_sentence_with_the_row(fault):
    tokenizer = byte_level(eos_token="</s>")
    tokenizer.chat_template = fault
    with pytest.raises(UserError, match=r"^x: row 1: the chat template refuses its turns \("):
        parts({"messages": TALKS["single"]}, tokenizer)


def test_a_template_whose_answer_cannot_be_found_is_refused():
    tokenizer = byte_level(eos_token="</s>")
    tokenizer.chat_template = "{{ messages[-1].role }}"
    with pytest.raises(UserError, match=r"row 1: the chat template refuses its turns \(it does not write"):
        parts({"messages": TALKS["system"]}, tokenizer)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages | length }}: {{ messages[-1].content }}",
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}{% if add_generation_prompt %}[reply]{% endif %}",
    ],
)
def test_an_answer_that_begins_in_another_way_than_what_is_sent_ends_is_set_behind_that(template):
    tokenizer = byte_level(eos_token="</s>")
    tokenizer.chat_template = template
    prompt, labels = parts({"messages": TALKS["single"]}, tokenizer)
    assert prompt == sent(tokenizer, TALKS["single"][:-1])
    assert labels == TALKS["single"][-1]["content"]


def test_what_a_template_does_not_write_is_told(caplog):
    tokenizer = byte_level(eos_token="</s>")
    tokenizer.chat_template = CHATML
    parts({"messages": TALKS["single"], "tools": [TOOL]}, tokenizer)
    assert "x: the chat template does not write all of tools of 1 rows, the first is row 1." in caplog.text
    parts({"messages": [*TALKS["single"][:1], CALL, *say(("tool", "Oslo"), TOLD)]}, tokenizer)
    assert "does not write all of tool_calls" in caplog.text
    parts({"messages": say(ASK, ("assistant", "<think>Norway.</think>Oslo."))}, speaking("deepseek_r1_distill"))
    assert "does not write all of answer" in caplog.text
    with pytest.raises(UserError, match="row 1: the chat template writes no tool_calls, write the answer as text"):
        parts({"messages": [*TALKS["single"][:1], CALL]}, tokenizer)
