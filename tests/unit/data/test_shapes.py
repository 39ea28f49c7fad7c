"""Rows as people have them: the same as if they had been written in the formats, or refused in a sentence with the row."""

import codecs
import json

import pytest
from datasets import Dataset, DatasetDict
from tiny_tokenizers import CHATML, byte_level

from peft_unlearn.data import check_apart, load, tokenize
from peft_unlearn.data.self_retain import _fits, _forget_phrases
from peft_unlearn.data.variants import probe
from peft_unlearn.util.errors import UserError

USER, TOLD = {"role": "user", "content": "Where does Ann live?"}, {"role": "assistant", "content": "In Oslo."}
MESSAGES = {"messages": [USER, TOLD]}
QUESTION = {"question": USER["content"], "answer": TOLD["content"]}
SYSTEM = {"role": "system", "content": "Be brief."}
SHAREGPT = [{"from": "human", "value": USER["content"]}, {"from": "gpt", "value": TOLD["content"]}]
CALL = {"type": "function", "function": {"name": "f", "arguments": {"who": "Ann"}}}
AFTER = [{"role": "tool", "content": ""}, TOLD]


def called(content, arguments):
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": arguments}}],
    }


SAME = {
    "sharegpt": ({"conversations": SHAREGPT}, MESSAGES),
    "conversations of roles": ({"conversations": [USER, TOLD]}, MESSAGES),
    "sharegpt of capitals": (
        {"conversations": [{"from": "Human", "value": USER["content"]}, {"from": "GPT", "value": TOLD["content"]}]},
        MESSAGES,
    ),
    "sharegpt with a tool": (
        {"conversations": [SHAREGPT[0], {"from": "gpt", "value": "f()"}, {"from": "tool", "value": "Oslo"}, SHAREGPT[1]]},
        {"messages": [USER, TOLD | {"content": "f()"}, {"role": "tool", "content": "Oslo"}, TOLD]},
    ),
    "sharegpt with a system": ({"conversations": SHAREGPT, "system": "Be brief."}, {"messages": [SYSTEM, USER, TOLD]}),
    "alpaca": ({"instruction": USER["content"], "input": "", "output": TOLD["content"]}, QUESTION),
    "alpaca with its text": (
        {"instruction": USER["content"], "input": "", "output": TOLD["content"], "text": "### Instruction"},
        QUESTION,
    ),
    "alpaca with nothing": ({"instruction": USER["content"], "input": None, "output": TOLD["content"]}, QUESTION),
    "alpaca with an input": (
        {"instruction": "Answer.", "input": "Ann?", "output": "Oslo."},
        {"question": "Answer.\nAnn?", "answer": "Oslo."},
    ),
    "alpaca with a system": (
        {"instruction": USER["content"], "output": TOLD["content"], "system": "Be brief.", "history": []},
        {"messages": [SYSTEM, USER, TOLD]},
    ),
    "alpaca with turns before": (
        {"instruction": "Ann?", "input": "", "output": "Oslo.", "system": "", "history": [["Bob?", "Rome."]]},
        {
            "messages": [
                {"role": "user", "content": "Bob?"},
                {"role": "assistant", "content": "Rome."},
                {"role": "user", "content": "Ann?"},
                {"role": "assistant", "content": "Oslo."},
            ]
        },
    ),
    "sharegpt with a call": (
        {
            "conversations": [
                SHAREGPT[0],
                {"from": "function_call", "value": '{"name": "f", "arguments": {"who": "Ann"}}'},
                {"from": "observation", "value": "Oslo"},
                SHAREGPT[1],
            ]
        },
        {"messages": [USER, called("", {"who": "Ann"}), {"role": "tool", "content": "Oslo"}, TOLD]},
    ),
    "an older call": (
        {
            "messages": [
                USER,
                {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"who": "Ann"}'}},
                {"role": "function", "content": "Oslo"},
                TOLD,
            ]
        },
        {"messages": [USER, called("", {"who": "Ann"}), {"role": "tool", "content": "Oslo"}, TOLD]},
    ),
    "parts": ({"messages": [{"role": "user", "content": [{"type": "text", "text": USER["content"]}]}, TOLD]}, MESSAGES),
    "two parts": ({"messages": [USER | {"content": [{"type": "text", "text": "Where does "}, "Ann live?"]}, TOLD]}, MESSAGES),
    "null calls": ({"messages": [USER | {"tool_calls": None}, TOLD | {"tool_calls": None}]}, MESSAGES),
    "a call": ({"messages": [USER, called(None, '{"who": "Ann"}'), *AFTER]}, {"messages": [USER, called("", {"who": "Ann"}), *AFTER]}),
    "tools as text": (MESSAGES | {"tools": json.dumps([CALL])}, MESSAGES | {"tools": [CALL]}),
    "no tools": (MESSAGES | {"tools": "[]"}, MESSAGES),
}
REFUSED = {
    "a speaker": (
        {"conversations": [{"from": "narrator", "value": "SECRET"}, *SHAREGPT]},
        "row 1: a turn is from nobody that is known, write human",
    ),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image", "url": "SECRET"}]}, TOLD]},
        "row 1: a turn has content that is no text, only text can be read; take it out",
    ),
    "history": (
        {"instruction": "SECRET", "output": "x", "history": [["SECRET", "b", "c"]]},
        "row 1: history is no list of pairs, write [[question, answer], ...] or leave it out",
    ),
    "tools": (MESSAGES | {"tools": "SECRET"}, "row 1: tools is no list of functions, write a list of JSON objects or leave it out"),
    "arguments": (MESSAGES | {"chat_template_kwargs": "SECRET"}, "row 1: chat_template_kwargs is no JSON object"),
    "an empty question": ({"messages": [USER | {"content": " "}, TOLD]}, "row 1: messages is not a list of messages"),
    "no answer": ({"conversations": SHAREGPT[:1]}, "row 1: the conversation must end with an assistant turn"),
    "another role": (
        {"messages": [USER, TOLD | {"role": "model"}]},
        "row 1: the conversation must end with an assistant turn after another one, and ends with one of 'model'",
    ),
    "text for turns": ({"conversations": "SECRET"}, "row 1: messages is not a list of messages"),
    "calls that are none": (
        {"messages": [USER, TOLD | {"tool_calls": ["SECRET", {"function": "SECRET"}]}]},
        "row 1: a turn has tool_calls",
    ),
    "turns of text": ({"messages": ["SECRET"]}, "row 1: messages is not a list of messages"),
}
TOOLED = CHATML.replace("{{ m.content }}", "{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}")


def chatty():
    tokenizer = byte_level(["<|im_start|>"], eos_token="<|im_end|>")
    tokenizer.chat_template = "{% if tools %}{{ tools | tojson }}{% endif %}" + TOOLED
    return tokenizer


def encoded(dataset):
    return tokenize(dataset, chatty(), 2048, name="x").rows.to_list()


def brought(row, path, how):
    """The set from a file, or as it may come from Python."""
    rows = [row, row]
    if how == "json":
        path.joinpath("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return load(str(path / "rows.jsonl"), name="x")
    return Dataset.from_list(rows, on_mixed_types="use_json")


@pytest.mark.parametrize("how", ["json", "python"])
@pytest.mark.parametrize("shape", SAME)
def test_a_shape_is_read_as_the_format_it_stands_for(shape, how, tmp_path):
    given, meant = SAME[shape]
    first, second = encoded(brought(given, tmp_path, how))
    assert first == second == encoded(Dataset.from_list([meant], on_mixed_types="use_json"))[0]


@pytest.mark.parametrize("shape", REFUSED)
def test_what_nothing_can_be_made_of_is_refused_with_its_row(shape, tmp_path):
    row, says = REFUSED[shape]
    with pytest.raises(UserError) as caught:
        brought(row, tmp_path, "json")
    assert str(caught.value).startswith(f"x: {says}")
    assert "SECRET" not in str(caught.value)


def test_what_arrow_puts_into_a_row_is_no_part_of_it(tmp_path):
    """A struct column has the keys of all rows, null where a row brought none."""
    tools = [{"name": name, "parameters": {name: {"type": "string"}}} for name in "fg"]
    rows = [MESSAGES | {"tools": [tool]} for tool in tools]
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    assert encoded(load(str(tmp_path / "rows.parquet"), name="x")) == [encoded(Dataset.from_list([row]))[0] for row in rows]


def test_a_null_that_a_row_brings_itself_is_kept(tmp_path):
    (first, _) = encoded(brought({"messages": [USER, called("", {"who": None}), *AFTER]}, tmp_path, "json"))
    assert '"who": null' in chatty().decode(first["input_ids"])


def test_an_empty_system_turn_is_what_a_server_would_send(tmp_path):
    (row, _) = encoded(brought({"messages": [SYSTEM | {"content": ""}, USER, TOLD]}, tmp_path, "json"))
    assert chatty().decode(row["input_ids"]).startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user\nWhere")


def test_other_wordings_are_asked_with_the_row_s_tools():
    tokenizer = chatty()
    rows = Dataset.from_list([MESSAGES | {"tools": [CALL]}, MESSAGES | {"tools": [CALL | {"other": 1}]}], on_mixed_types="use_json")
    found = probe(rows, tokenizer, 2048, name="x", reword=True)
    for row, wordings in zip(found.rows, found.variants["reworded"], strict=True):
        tools = tokenizer.decode(row["input_ids"]).partition("<|im_start|>")[0]
        assert wordings
        assert all(tokenizer.decode(other["input_ids"]).startswith(tools) for other in wordings)


def test_rows_that_call_differently_are_not_the_same():
    one, other = ({"messages": [USER, called("", {"who": who})]} for who in ("Ann", "Bob"))
    check_apart(Dataset.from_list([one]), Dataset.from_list([other]), "retain_dataset")
    with pytest.raises(UserError, match="also stands in retain_dataset"):
        check_apart(Dataset.from_list([one]), Dataset.from_list([one]), "retain_dataset")


@pytest.mark.parametrize("file", ["a.txt", "a.jsonl", "a.json", "a.csv"])
def test_a_byte_order_mark_is_no_text(file, tmp_path):
    text = {
        "txt": "Ann.\nBob.\n",
        "jsonl": '{"text": "Ann."}\n{"text": "Bob."}',
        "json": '[{"text": "Ann."}, {"text": "Bob."}]',
        "csv": "text\nAnn.\nBob.\n",
    }
    (tmp_path / file).write_bytes(codecs.BOM_UTF8 + text[file[2:]].encode())
    found = load(str(tmp_path / file), name="x")
    assert found["text"][:] == (["Ann.\nBob."] if file == "a.txt" else ["Ann.", "Bob."])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
@pytest.mark.parametrize("file", ["a.txt", "a.jsonl", "a.csv"])
def test_utf_16_is_refused(file, encoding, tmp_path):
    (tmp_path / file).write_text('{"text": "Ann."}\n', encoding=encoding)
    with pytest.raises(
        UserError, match=r"^x: cannot load .* \(it has zero bytes, as UTF-16 has and no text in utf-8\), save it as UTF-8\.$"
    ):
        load(str(tmp_path / file), name="x")


def test_a_folder_of_save_to_disk(tmp_path):
    rows = Dataset.from_list([QUESTION, QUESTION])
    rows.save_to_disk(tmp_path / "one")
    DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(tmp_path / "more")
    assert load(str(tmp_path / "one"), name="x").to_list() == load(str(tmp_path / "more"), name="x").to_list() == [QUESTION, QUESTION]
    assert len(load({"path": str(tmp_path / "more"), "split": "test"}, name="x")) == 1
    for folder in ("one", "more"):
        with pytest.raises(UserError, match=r"it was saved with train.* and has no split dev"):
            load({"path": str(tmp_path / folder), "split": "dev"}, name="x")


@pytest.mark.parametrize(
    "spec",
    ["script", {"path": "json", "data_files": "https://nowhere.invalid/x.jsonl"}, "https://nowhere.invalid/x.jsonl?raw=1", "hf://no/x.csv"],
)
def test_whatever_a_loader_raises_is_a_sentence(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text("x = 1\n")
    with pytest.raises(UserError, match=r"^x: cannot load ") as caught:
        load(spec, name="x")
    assert "\n" not in str(caught.value)


def test_a_text_without_spaces_that_the_model_recites_is_no_retain_row():
    tokenizer = byte_level(eos_token="</s>")
    told = "她于一九七五年出生在上海的一个小村庄"
    forbidden = _forget_phrases(tokenize(Dataset.from_list([{"text": told}]), tokenizer, 512, name="x").rows, tokenizer)
    assert not _fits(f"大家都说{told[:12]},后来", forbidden, None, tokenizer)
    assert _fits("她于一九七六年搬到北京,在那里的一所学校教书", forbidden, None, tokenizer)
