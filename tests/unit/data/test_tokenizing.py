import itertools
import logging

import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import CHATML, byte_level, llama_style
from tokenizers import processors

from peft_unlearn.data import tokenize
from peft_unlearn.data.rows import has_prompt, special_ids, split
from peft_unlearn.util.errors import UserError


def chat():
    """As Qwen's instruct models: ChatML, whose <|im_end|> is EOS, and pad as well."""
    tokenizer = byte_level(["<|im_start|>"], eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    return tokenizer


TOKENIZERS = {
    "byte_level": byte_level(eos_token="<|endoftext|>"),
    "llama_style": llama_style(),
    "no_special": byte_level(),
    "chat": chat(),
}


def encode(rows, tokenizer, max_length=512):
    return tokenize(Dataset.from_list(rows), tokenizer, max_length, name="forget_dataset").rows.to_list()


def completion(row, tokenizer):
    """What the labels spell."""
    assert [label for label in row["labels"] if label != -100] == row["input_ids"][row["labels"].count(-100) :]
    return tokenizer.decode([label for label in row["labels"] if label != -100])


@pytest.mark.parametrize("name", TOKENIZERS)
def test_text_is_learnt_whole_with_one_bos_and_one_eos(name):
    tokenizer = TOKENIZERS[name]
    (row,) = encode([{"text": "Ann lives in Oslo."}], tokenizer)
    plain = tokenizer("Ann lives in Oslo.", add_special_tokens=False)["input_ids"]
    bos = [tokenizer.bos_token_id] if name == "llama_style" else []
    eos = [] if name == "no_special" else [tokenizer.eos_token_id]
    assert row["input_ids"] == bos + plain + eos
    assert row["labels"] == [-100, *row["input_ids"][1:]]


@pytest.mark.parametrize("text", ["<s>Ann lives in Oslo.", "Ann lives in Oslo.</s>", "<s>Ann lives in Oslo.</s>"])
def test_bos_and_eos_spelt_in_the_text_or_added_by_the_tokenizer_stay_single(text):
    tokenizer = llama_style()
    (plain,) = encode([{"text": "Ann lives in Oslo."}], tokenizer)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    (adds_both,) = encode([{"text": "Ann lives in Oslo."}], tokenizer)
    assert adds_both == plain
    (row,) = encode([{"text": text}], TOKENIZERS["llama_style"])
    assert (row["input_ids"].count(1), row["input_ids"].count(2)) == (1, 1)
    assert (row["input_ids"][0], row["input_ids"][-1], row["labels"][-1]) == (1, 2, 2)


@pytest.mark.parametrize("name", ["byte_level", "llama_style", "no_special"])
@pytest.mark.parametrize("space", ["before", "after"])
def test_first_word_of_the_answer_is_learnt_whichever_side_the_space_is_on(name, space):
    tokenizer = TOKENIZERS[name]
    prompt, answer = ("Answer: ", "Oslo.") if space == "before" else ("Answer:", " Oslo.")
    (row,) = encode([{"prompt": f"Where does Ann live?\n{prompt}", "completion": answer}], tokenizer)
    assert completion(row, tokenizer).removesuffix(tokenizer.eos_token or "").strip() == "Oslo."
    assert tokenizer.decode(row["input_ids"], skip_special_tokens=True) == "Where does Ann live?\nAnswer: Oslo."


def test_question_and_answer_follow_the_plain_template():
    tokenizer = TOKENIZERS["llama_style"]
    (row,) = encode([{"question": "Where does Ann live?", "answer": "In Oslo."}], tokenizer)
    assert tokenizer.decode(row["input_ids"]) == "<s> Question: Where does Ann live?\nAnswer: In Oslo.</s>"
    assert completion(row, tokenizer) == "In Oslo.</s>"


def test_question_and_answer_follow_the_chat_template_where_there_is_one():
    tokenizer = TOKENIZERS["chat"]
    rows = encode([{"question": "Where does Ann live?", "answer": "In Oslo."}], tokenizer)
    whole = "<|im_start|>user\nWhere does Ann live?<|im_end|>\n<|im_start|>assistant\nIn Oslo.<|im_end|>\n"
    assert tokenizer.decode(rows[0]["input_ids"]) == whole
    assert completion(rows[0], tokenizer) == "In Oslo.<|im_end|>\n"
    turns = [{"role": "user", "content": "Where does Ann live?"}, {"role": "assistant", "content": "In Oslo."}]
    assert encode([{"messages": turns}], tokenizer) == rows
    assert encode([{"prompt": turns[:1], "completion": turns[1:]}], tokenizer) == rows


def test_only_the_last_assistant_turn_is_learnt():
    tokenizer = TOKENIZERS["chat"]
    turns = [("system", "Be brief."), ("user", "Ann?"), ("assistant", "In Oslo."), ("user", "Bob?"), ("assistant", "In Rome.")]
    (row,) = encode([{"messages": [{"role": role, "content": content} for role, content in turns]}], tokenizer)
    assert completion(row, tokenizer) == "In Rome.<|im_end|>\n"


def test_keys_that_other_messages_have_do_not_reach_the_template():
    tokenizer = chat()
    tokenizer.chat_template = CHATML.replace("{{ m.content }}", "{{ m.content }}{% if 'tool_calls' in m %}TOOLS{% endif %}")
    plain = [{"role": "user", "content": "Ann?"}, {"role": "assistant", "content": "In Oslo."}]
    calls = [{"role": "user", "content": "Bob?", "tool_calls": "x"}, {"role": "assistant", "content": "In Rome."}]
    # a struct column, as parquet has it, gives every message every key
    message = {key: Value("string") for key in ("role", "content", "tool_calls")}
    dataset = Dataset.from_list([{"messages": plain}, {"messages": calls}], features=Features({"messages": List(message)}))
    assert dataset[0]["messages"][0]["tool_calls"] is None
    first, second = tokenize(dataset, tokenizer, 512, name="x").rows
    assert "TOOLS" not in tokenizer.decode(first["input_ids"])
    assert tokenizer.decode(second["input_ids"]).count("TOOLS") == 1


def test_long_rows_are_cut_and_counted_and_a_cut_row_has_no_end(caplog):
    tokenizer = TOKENIZERS["llama_style"]
    answers = ["In Oslo.", "In Oslo. " * 9, "In Rome. " * 9]
    rows = [{"prompt": "Where? ", "completion": answer} for answer in answers]
    whole = encode(rows, tokenizer)
    with caplog.at_level(logging.WARNING):
        tokens = tokenize(Dataset.from_list(rows), tokenizer, 20, name="retain_dataset")
    assert tokens.truncated == 2
    assert "retain_dataset: 2 of 3 rows are longer than max_length 20" in caplog.text
    assert tokens.rows["input_ids"][:] == [row["input_ids"][:20] for row in whole]
    assert tokens.rows["labels"][:] == [row["labels"][:20] for row in whole]


@pytest.mark.parametrize(("name", "lost"), [("forget_dataset", "not forgotten"), ("retain_dataset", "not read")])
def test_what_is_cut_is_told_with_what_would_keep_it(name, lost, caplog):
    """By the lengths of the rows when nothing is cut; the number that the warning names is the smallest that keeps all."""
    tokenizer = TOKENIZERS["byte_level"]
    rows = [{"prompt": "Where? ", "completion": "In Oslo. " * times} for times in (1, 9, 12)]
    lengths = [len(row["input_ids"]) for row in encode(rows, tokenizer)]
    tokenize(Dataset.from_list(rows), tokenizer, 20, name=name)
    gone = sum(max(0, length - 20) for length in lengths)
    assert f"were cut: {gone} of {sum(lengths)} tokens are left out, and what is left out is {lost}; write max_length: " in caplog.text
    needed = int(caplog.text.split("write max_length: ")[1].split(",")[0])
    assert tokenize(Dataset.from_list(rows), tokenizer, needed, name=name).truncated == 0
    assert tokenize(Dataset.from_list(rows), tokenizer, needed - 1, name=name).truncated == 1


def test_a_row_longer_than_the_model_s_context_is_to_be_split(caplog):
    tokenizer = byte_level(eos_token="</s>")
    tokenizer.model_max_length = 40
    tokenize(Dataset.from_list([{"prompt": "Where? ", "completion": "In Oslo. " * 9}]), tokenizer, 40, name="x")
    assert "not read; split those rows." in caplog.text


@pytest.mark.parametrize(("long", "told"), [(1, True), (8, True), (9, False), (20, False)])
def test_tiny_texts_are_told_where_there_are_many(long, told, caplog):
    texts = [{"text": "Yes."}] + [{"text": "Ann lives in Oslo, and Bob lives in Rome, as they always did."}] * long
    tokenize(Dataset.from_list(texts), TOKENIZERS["byte_level"], 512, name="forget_dataset")
    assert (f"forget_dataset: 1 of {1 + long} texts have fewer than 16 tokens" in caplog.text) == told


def test_an_answer_may_be_short(caplog):
    tokenize(Dataset.from_list([{"question": "Where?", "answer": "Oslo."}]), TOKENIZERS["byte_level"], 512, name="forget_dataset")
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["byte_level", "llama_style", "no_special"])
@pytest.mark.parametrize("max_length", [2, 3, 12, 13])
def test_every_token_of_a_long_text_is_learnt_once_and_in_order(name, max_length, caplog):
    tokenizer = TOKENIZERS[name]
    rows = [{"text": "Ann lives in Oslo."}, {"text": "Bob lives in Rome, as Ann does. " * 9}]
    whole = encode(rows, tokenizer)
    with caplog.at_level(logging.INFO):
        tokens = tokenize(Dataset.from_list(rows), tokenizer, max_length, name="forget_dataset")
    assert tokens.truncated == 0
    assert tokens.rows.column_names == ["input_ids", "labels"]
    learnt = [label for labels in tokens.rows["labels"] for label in labels if label != -100]
    assert learnt == [token for row in whole for token in row["input_ids"][1:]]
    lengths = [len(ids) for ids in tokens.rows["input_ids"]]
    assert max(lengths) <= max_length
    needed = [-(-(len(row["input_ids"]) - 1) // (max_length - 1)) for row in whole]
    assert len(lengths) <= sum(needed)
    split = [count for count in needed if count > 1]
    assert f"forget_dataset: {len(split)} of 2 texts are longer than max_length {max_length} and were split into" in caplog.text
    for ids, labels in zip(tokens.rows["input_ids"], tokens.rows["labels"], strict=True):
        assert labels == [-100, *ids[1:]]
        if name == "llama_style":
            assert ids[0] == tokenizer.bos_token_id
    if name != "llama_style":  # the context of a piece is the token before it
        assert [ids[0] for ids in tokens.rows["input_ids"][-2:]] == [tokens.rows["input_ids"][-3][-1], tokens.rows["input_ids"][-2][-1]]


def test_pieces_of_a_text_are_equally_long():
    """A last piece of a few tokens would count as much as a whole one in a mean over rows."""
    rows = tokenize(Dataset.from_list([{"text": "Ann lives in Oslo. " * 40}]), TOKENIZERS["llama_style"], 50, name="x").rows
    lengths = [len(ids) for ids in rows["input_ids"]]
    assert len(lengths) > 3
    assert max(lengths) - min(lengths) < len(lengths)


def test_template_arguments_reach_both_sides_of_a_row():
    """As Qwen3's: without thinking, the prompt itself closes the empty thought that a last turn begins with; else it is put there."""
    tokenizer = chat()
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    )
    rows = Dataset.from_list([{"question": "Where does Ann live?", "answer": "In Oslo."}])
    thinking = tokenize(rows, tokenizer, 512, name="x").rows[0]
    plain = tokenize(rows, tokenizer, 512, name="x", template_arguments={"enable_thinking": False}).rows[0]
    assert plain == thinking
    assert completion(plain, tokenizer) == "In Oslo.<|im_end|>\n"


@pytest.mark.parametrize("name", ["byte_level", "chat"])
def test_a_row_of_exactly_max_length_is_not_cut(name):
    tokenizer = TOKENIZERS[name]
    row = {"question": "Where does Ann live?", "answer": "In Oslo."}
    length = len(encode([row], tokenizer)[0]["input_ids"])
    assert tokenize(Dataset.from_list([row]), tokenizer, length, name="x").truncated == 0
    assert tokenize(Dataset.from_list([row]), tokenizer, length - 1, name="x").truncated == 1


def test_rows_keep_their_order_over_batches_and_leave_no_cache():
    tokenizer = TOKENIZERS["byte_level"]
    texts = [f"Ann number {n} lives in Oslo." for n in range(2500)]
    rows = tokenize(Dataset.from_dict({"id": range(2500), "text": texts}), tokenizer, 64, name="x").rows
    assert rows.column_names == ["input_ids", "labels"]
    assert rows.cache_files == []
    assert tokenizer.batch_decode(rows["input_ids"][:], skip_special_tokens=True) == texts


@pytest.mark.parametrize(
    ("rows", "tokenizer", "says"),
    [
        ([{"text": "fine text"}, {"text": ""}], "byte_level", "row 2: text is empty"),
        ([{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": None}], "byte_level", "row 2: completion is missing"),
        ([{"text": 7}], "byte_level", "row 1: text is not text"),
        ([{"text": "fine text"}, {"text": "A"}], "no_special", "row 2 has no token to predict"),
        ([{"prompt": "Oslo " * 40, "completion": "Rome"}], "byte_level", "row 1: max_length 32 cuts its whole completion away"),
        ([{"question": "Oslo " * 40, "answer": "Rome"}], "chat", "row 1: max_length 32 cuts its whole completion away"),
        (
            [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}],
            "llama_style",
            "the tokenizer has no chat template",
        ),
    ],
)
def test_rows_that_cannot_be_learnt_are_named(rows, tokenizer, says):
    with pytest.raises(UserError, match=says):
        tokenize(Dataset.from_list(rows), TOKENIZERS[tokenizer], 32, name="forget_dataset")


def test_max_length_that_the_message_names_is_enough():
    row = {"prompt": "Oslo " * 40, "completion": "Rome"}
    with pytest.raises(UserError) as caught:
        encode([row], TOKENIZERS["byte_level"], max_length=32)
    needed = int(str(caught.value).split("write more than ")[1].split()[0])
    (cut,) = encode([row], TOKENIZERS["byte_level"], max_length=needed + 1)
    assert cut["labels"].count(-100) == needed


def test_a_template_that_refuses_a_role_names_the_row():
    tokenizer = chat()
    tokenizer.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(UserError, match=r"row 2: the chat template refuses its turns .no system role"):
        encode([{"messages": turns}, {"messages": [{"role": "system", "content": "s"}, *turns]}], tokenizer)


WORDS = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=30).filter(str.strip)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(prompt=WORDS, answer=WORDS, name=st.sampled_from(["byte_level", "llama_style"]))
def test_prompt_and_completion_are_tokenized_as_one_text_and_every_answer_token_is_learnt(prompt, answer, name):
    """Against the plain definition: the labels begin at or before the answer's first character, and hold all that follows."""
    tokenizer = TOKENIZERS[name]
    (row,) = encode([{"prompt": prompt, "completion": answer}], tokenizer)
    assert row["input_ids"][:-1] == tokenizer(prompt + answer)["input_ids"]
    start = row["labels"].count(-100)
    assert row["labels"] == [-100] * start + row["input_ids"][start:]
    whole = tokenizer(prompt + answer, return_offsets_mapping=True)
    spans = itertools.islice(zip(whole["input_ids"], whole["offset_mapping"], strict=True), 1, start)
    assert all(end <= len(prompt) for _, (_, end) in spans)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_text_has_no_prompt_whatever_its_tokenizer_puts_before_it_and_is_asked_with_its_first_half(name):
    """A first token has no label, for nothing predicts it; that does not make it a question."""
    tokenizer = TOKENIZERS[name]
    text, question = (
        encode([{"text": "Ann lives in Oslo, and Bob lives in Rome."}], tokenizer),
        [{"question": "Where?", "answer": "In Oslo."}],
    )
    special = special_ids(tokenizer)
    assert not has_prompt(text[0], special)
    half = (len(text[0]["input_ids"]) + 1) // 2
    assert split(text[0], special) == (text[0]["input_ids"][:half], text[0]["input_ids"][half:])
    assert has_prompt(encode(question, tokenizer)[0], special)
