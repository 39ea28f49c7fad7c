"""What may be written down of a command line."""

import sys

import pytest

from peft_unlearn.cli import main
from peft_unlearn.util.redaction import without_tokens


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["train", "r.yaml", "--hub_token", "hf_a", "--seed", "1"], ["train", "r.yaml", "--hub_token", "***", "--seed", "1"]),
        (["--hub_token=hf_a", "--push_to_hub_token", "hf_a"], ["--hub_token=***", "--push_to_hub_token", "***"]),
        (["--forget_dataset", "{path: f.jsonl, token: hf_a}"], ["--forget_dataset", "{path: f.jsonl, token: ***}"]),
        (["--forget_dataset", '{"token": "hf_a", "path": "f"}'], ["--forget_dataset", '{"token": ***, "path": "f"}']),
        (["--hub_token"], ["--hub_token"]),
        ([], []),
    ],
)
def test_tokens_are_taken_out_of_a_command_line_and_nothing_else(words, shown):
    assert without_tokens(words) == shown


def test_a_command_leaves_no_token_where_a_tracker_reads_its_words(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["peft-unlearn", "train", "nope.yaml", "--hub_token", "hf_a"])
    assert main() == 2
    assert sys.argv == ["peft-unlearn", "train", "nope.yaml", "--hub_token", "***"]
