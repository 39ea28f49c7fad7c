"""Sets of other shapes go through a run as those do that they stand for: other answers and wordings, groups, the retain set, the holdout."""

import pytest
from chat_templates import speaking
from datasets import Dataset

from peft_unlearn import UnlearnConfig
from peft_unlearn.data import load
from peft_unlearn.training import datasets
from peft_unlearn.util.errors import UserError

PEOPLE = {"forget": ("Ann", "Bob"), "retain": ("Cleo", "Dora"), "holdout": ("Egon", "Finn")}
ASKED = {name: [(f"Where does {who} live?", f"{who} lives in {who}town.") for who in people] for name, people in PEOPLE.items()}
TOOL = [{"type": "function", "function": {"name": "find_home", "parameters": {"type": "object", "properties": {}}}}]


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


def call(content):
    return turn("assistant", content, tool_calls=[{"type": "function", "function": {"name": "find_home", "arguments": {}}}])


# The same rows as people have them, and in a format.
SHAPES = {
    "alpaca": (
        lambda q, a: {"instruction": q, "input": "", "output": a, "text": "all of it"},
        lambda q, a: {"question": q, "answer": a},
    ),
    "sharegpt": (
        lambda q, a: {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]},
        lambda q, a: {"messages": [turn("user", q), turn("assistant", a)]},
    ),
    "an empty thought": (
        lambda q, a: {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": f"\n</think>\n\n{a}"}]},
        lambda q, a: {"messages": [turn("user", q), turn("assistant", a)]},
    ),
    "tools": (
        lambda q, a: {"messages": [turn("user", q), call(None), turn("tool", a), turn("assistant", a)], "tools": str(TOOL).replace("'", '"')},
        lambda q, a: {"messages": [turn("user", q), call(""), turn("tool", a), turn("assistant", a)], "tools": TOOL},
    ),
}  # fmt: skip


def run(way, answers, folder, **changes):
    """The tokenized sets of a run whose every set is of one shape."""
    sets = {
        name: Dataset.from_list([way(q, a) | {"alternate_answer": "I do not know.", "author": a[:1]} for q, a in rows], on_mixed_types="use_json")
        for name, rows in ASKED.items()
    }  # fmt: skip
    args = UnlearnConfig(output_dir=str(folder), method="mollm", answers=answers, use_cpu=True, **changes)
    return datasets.tokenize(args, speaking("qwen3"), 4096, sets, reword=True)


@pytest.mark.parametrize(
    ("shape", "answers"), [("alpaca", "refuse"), ("sharegpt", "natural"), ("an empty thought", "column"), ("tools", "column")]
)
def test_a_shape_is_the_same_run_as_the_format_it_stands_for(shape, answers, tmp_path):
    found, meant = (run(way, answers, tmp_path) for way in SHAPES[shape])
    for name in ASKED:
        assert found[name].rows.to_list() == meant[name].rows.to_list()
        assert found[name].variants == meant[name].variants
        assert list(found[name].groups) == list(meant[name].groups)
    assert bool(found["forget"].variants["reworded"][0]) == (shape != "tools")  # what a tool said is nothing that is asked
    assert ("alternate" in found["forget"].rows.column_names) == (answers != "natural")


@pytest.mark.parametrize("shape", SHAPES)
def test_an_answer_in_place_of_another_stands_where_that_stood(shape, tmp_path):
    tokenizer = speaking("qwen3")
    for row in run(SHAPES[shape][0], "column", tmp_path)["forget"].rows:
        own, other = ([len(part["labels"]) - part["labels"].count(-100) for part in (row, row["alternate"])], row["alternate"])
        assert tokenizer.decode(other["labels"][-own[1] :]) == "I do not know.<|im_end|>\n"
        assert row["input_ids"][: -own[0]] == other["input_ids"][: -own[1]]


def test_a_forgotten_row_is_found_in_the_retain_set_whatever_its_shape():
    rows = {
        name: Dataset.from_list([SHAPES[shape][0](*ASKED["forget"][0])]) for name, shape in (("forget", "alpaca"), ("retain", "sharegpt"))
    }
    with pytest.raises(UserError, match="row 1 also stands in retain_dataset as row 1"):
        datasets.tokenize(UnlearnConfig(use_cpu=True), speaking("qwen3"), 4096, rows)


def test_a_book_beside_questions(tmp_path):
    """Pieces of one file belong together, and a text asks for no other answer."""
    for file in ("a.txt", "b.md"):
        (tmp_path / file).write_text(f"The tale of {file}. " * 20)
    sets = {"forget": load(str(tmp_path), name="forget_dataset"), "retain": Dataset.from_list([SHAPES["alpaca"][1](*ASKED["retain"][0])])}
    found = datasets.tokenize(UnlearnConfig(use_cpu=True), speaking("qwen3"), 64, sets, reword=True)
    assert len(set(found["forget"].groups)) == 2 < len(found["forget"].rows)
    assert "reworded" in found["forget"].variants
    with pytest.raises(UserError, match="plain texts, which ask for no answer; write answers: natural or none"):
        datasets.tokenize(UnlearnConfig(use_cpu=True, method="dpo", answers="refuse"), speaking("qwen3"), 64, sets)
