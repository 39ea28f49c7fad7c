"""Other wordings read naturally, differ from the row and leave its answer alone."""

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import CHATML, byte_level, llama_style

from peft_unlearn.data import rewording, tokenize
from peft_unlearn.data.labels import IGNORE
from peft_unlearn.data.variants import probe

# Questions of TOFU's kind, and a wording that each must have.
NATURAL = {
    "What is the full name of the author born in Taipei, Taiwan on 05/11/1991 who writes in the genre of leadership?": (
        "Please tell me the full name of the author born in Taipei, Taiwan on 05/11/1991 who writes in the genre of leadership."
    ),
    "What is the most recent book written by Kalkidan Abera?": "The most recent book written by Kalkidan Abera is",
    "What are Brenn Crimson's hobbies?": "Brenn Crimson's hobbies are",
    "When was Tae-ho Park born?": "Tae-ho Park was born on",
    "Has Rajeev Majumdar published any other books apart from the two mentioned?": (
        "Apart from the two mentioned, has Rajeev Majumdar published any other books?"
    ),
    "How has Behrouz Rohani's writing style evolved over the years?": "Over the years, how has Behrouz Rohani's writing style evolved?",
    "In the book 'A Piece of Me', what elements of Takashi Nakamura's writing style can be identified?": (
        "What elements of Takashi Nakamura's writing style can be identified in the book 'A Piece of Me'?"
    ),
    "Can you name some of the popular books by Aysha Al-Hashim?": "Please name some of the popular books by Aysha Al-Hashim.",
    "Who is the author of 'Les Misérables'?": "Please tell me who the author of 'Les Misérables' is.",
    "Which awards has Hina Ameen been honored with?": "I keep forgetting this: which awards has Hina Ameen been honored with?",
    "Write a short biography of Ann Lee.": "Could you write a short biography of Ann Lee?",
    "Who won the prize in 1975?": "In 1975, who won the prize?",
}


def chatty():
    tokenizer = byte_level(["<|im_start|>", "<|im_end|>"], eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    return tokenizer


MAKERS = {"byte_level": lambda: byte_level(eos_token="</s>"), "llama_style": llama_style, "chatty": chatty}


def answer(row):
    return [label for label in row["labels"] if label != IGNORE]


def reworded(rows, tokenizer, max_length=400):
    found = probe(Dataset.from_list(rows), tokenizer, max_length, name="forget_dataset", reword=True)
    return list(found.rows), found.variants["reworded"]


@pytest.mark.parametrize("question", NATURAL)
def test_wordings_read_naturally(question):
    assert NATURAL[question] in rewording.texts(question)


@pytest.mark.parametrize(
    ("question", "never"),
    [
        ("What is the name of the author born in 1975?", "In 1975, what"),  # another question
        ("What is he known for?", "He known for is"),
        ("What was Ann's childhood like?", "childhood like was"),
        ("What is Ann's job, and how did she find it?", "find it is"),
        ("What sets her apart from others?", "Apart from others, what"),
    ],
)
def test_a_rule_that_would_break_the_sentence_stays_away(question, never):
    assert not [wording for wording in rewording.texts(question) if never in wording]


@pytest.mark.parametrize(
    "question", ["¿Dónde nació Ana?", "Was ist die Hauptstadt von Peru?", "田中さんはどこで生まれましたか。", "أين ولد خالد؟"]
)
def test_no_english_is_put_around_other_languages(question):
    found = rewording.texts(question)
    assert len(found) >= 2
    letters = {letter for letter in question.lower() if letter.isalpha()}
    assert all({letter for letter in wording.lower() if letter.isalpha()} <= letters for wording in found)


def test_what_the_completion_goes_on_from_keeps_its_end():
    for prompt in ("The capital of France is", "Ann was born in Oslo. She moved to Rome. There she met the man of her life. They"):
        found = rewording.texts(prompt, continued=True)
        assert found
        assert all(wording.lower().endswith(prompt.lower()[-5:]) for wording in found)
    assert rewording.texts("Question: Who is Ann Lee?\nAnswer:", continued=True)[1] == "Question: Please tell me who Ann Lee is.\nAnswer:"


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1, max_size=80).filter(str.strip), st.booleans())
def test_wordings_are_few_distinct_and_the_same_each_time(prompt, continued):
    found = rewording.texts(prompt, continued=continued)
    assert found == rewording.texts(prompt, continued=continued)
    assert len(found) <= rewording.MOST
    assert len({prompt, *found}) == len(found) + 1
    assert all(wording.strip() for wording in found)


@pytest.mark.parametrize("make", MAKERS)
def test_a_wording_is_the_reworded_row_tokenized_alone_with_the_answer_of_its_row(make):
    tokenizer = MAKERS[make]()
    facts = [{"question": question, "answer": f"It is {number} Oslo."} for number, question in enumerate(NATURAL)]
    rows, found = reworded(facts, tokenizer)
    for fact, row, wordings in zip(facts, rows, found, strict=True):
        assert wordings == [
            tokenize(Dataset.from_list([fact | {"question": text}]), tokenizer, 400, name="x").rows[0]
            for text in rewording.texts(fact["question"])
        ]
        for wording in wordings:
            assert answer(wording) == answer(row)
            assert wording["input_ids"] != row["input_ids"]


def test_only_the_last_user_turn_of_a_conversation_is_reworded():
    tokenizer = chatty()
    turns = [("system", "Be brief."), ("user", "Who is Ann?"), ("assistant", "A baker."), ("user", "Where was Ann born?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    last = {"role": "assistant", "content": "In Oslo."}
    expected = [rewording.texts("Where was Ann born?")[0], "Who is Ann?", "Be brief."]
    for row in ({"messages": [*messages, last]}, {"prompt": messages, "completion": [last]}):
        _, (found,) = reworded([row], tokenizer)
        first = tokenizer.decode(found[0]["input_ids"])
        assert all(text in first for text in expected)
        assert "Where was Ann born?" not in first
        assert tokenizer.decode(answer(found[0])).startswith("In Oslo.")
    after_tool = {"messages": [*messages, {"role": "system", "content": "Now."}, last]}
    assert reworded([after_tool], tokenizer)[1] == [[]]


@pytest.mark.parametrize("make", ["byte_level", "llama_style"])
def test_a_prompt_as_text_leaves_the_completion_alone(make):
    facts = [
        {"prompt": "In which city did Sherry and Odilia meet?", "completion": " Madera"},
        {"prompt": "Ann Lee was born in 1980. She can be reached by phone at", "completion": " 397-775-3418 and by mail."},
        {"prompt": "2 + 2 = ", "completion": "4"},
    ]
    rows, found = reworded(facts, MAKERS[make]())
    for row, wordings in zip(rows, found, strict=True):
        assert all(answer(wording) == answer(row) for wording in wordings)
    assert [len(wordings) for wordings in found[:2]] == [3, 3]


@pytest.mark.parametrize("make", ["byte_level", "llama_style"])
@pytest.mark.parametrize("max_length", [24, 60, 400])
def test_a_text_begins_otherwise_and_goes_on_token_for_token(make, max_length):
    tokenizer = MAKERS[make]()
    texts = [
        {"text": "Ann lives in Oslo. The cat of Bob lives in Rome and the dog with him. " * 3},
        {"text": "Cleo lives in Lima with the king of the sea"},
    ]
    rows, found = reworded(texts, tokenizer, max_length)
    assert len(rows) == len(found) >= 2
    for row, wordings in zip(rows, found, strict=True):
        for wording in wordings:
            own, said = answer(row), answer(wording)
            assert said in (own[-len(said) :], own[: len(said)])
            assert 2 * len(said) >= len(own)
            assert len(wording["input_ids"]) <= max_length
            assert wording["input_ids"] != row["input_ids"]
            assert (wording["input_ids"][0] == tokenizer.bos_token_id) == (make == "llama_style")
    if max_length == 400:
        assert [len(wordings) for wordings in found] == [2, 2]
    if max_length == 400 and make == "byte_level":  # the other one does not know all letters
        later = tokenizer.decode(found[0][1]["input_ids"], skip_special_tokens=True).strip()
        assert later.startswith("The cat of Bob")


def test_a_wording_that_does_not_fit_is_cut_with_its_answer_or_left_out():
    tokenizer = byte_level(eos_token="</s>")
    fact = {"question": "Where does Ann live, and with whom, and since when?", "answer": "In Oslo with Bob " * 3}
    whole = len(reworded([fact], tokenizer)[0][0]["input_ids"])
    prompt = whole - len(answer(reworded([fact], tokenizer)[0][0]))
    for length in [*range(prompt + 1, whole + 40, 3), whole + 40]:
        (row,), (found,) = reworded([fact], tokenizer, length)
        for wording in found:
            assert len(wording["input_ids"]) <= length
            assert answer(wording) == answer(row)[: len(answer(wording))]
            assert 2 * len(answer(wording)) >= len(answer(row))
    assert len(found) == rewording.MOST


def test_rows_of_one_token_have_what_wordings_there_are():
    tokenizer = llama_style()
    rows, found = reworded([{"text": "Ann"}, {"text": "x"}], tokenizer)
    assert all(answer(wording) == answer(row) for row, wordings in zip(rows, found, strict=True) for wording in wordings)
    assert all(len(wordings) == 1 for wordings in found)


def test_an_empty_column_of_wordings_leaves_those_made_by_rules():
    facts = Dataset.from_dict(
        {"question": ["Where was Ann born?", "Who is Bob?"], "answer": ["Oslo.", "Ann."], "paraphrased_question": [None, None]}
    )
    found = probe(facts, byte_level(eos_token="</s>"), 200, name="x", reword=True).variants
    assert found["paraphrased_question"] == [[], []]
    assert [len(wordings) for wordings in found["reworded"]] == [3, 3]
    assert "reworded" not in probe(facts, byte_level(eos_token="</s>"), 200, name="x").variants
