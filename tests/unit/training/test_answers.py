"""Other answers: spelled as the row's own would be, asked of a never-seen model or of the model itself, and never what is to be forgotten."""

import logging

import pytest
from datasets import Dataset
from scripted import Recites, asked, reciter, saying
from test_targets import FORGET, HOLDOUT, RETAIN, twins
from test_tokenizing import TOKENIZERS
from test_trainer import build
from test_turns import SPECIAL, TEXT, base
from word_rows import row, tokenizer

from peft_unlearn.data import tokenize
from peft_unlearn.data.rows import answer_texts, special_ids
from peft_unlearn.metrics.degenerate import degenerate
from peft_unlearn.model.generation import generate
from peft_unlearn.training import answers
from peft_unlearn.util.errors import UserError

ALL_TOKENIZERS = TOKENIZERS | {name: base(template, extra) for name, (template, extra, _) in SPECIAL.items()}
ALL_TOKENIZERS |= {name: base(template) for name, (template, _) in TEXT.items()}
OWN, OTHERS = (
    "Ann lives in Oslo.",
    ["Bob is in Rome.", "Rome", "42 and more", "Жил в Осло.", "東京です。", "no capital\nsecond line: more", "é…"],
)
SHAPES = {
    "question and answer": lambda answer: {"question": "Where does Ann live?", "answer": answer},
    "prompt and completion": lambda answer: {"prompt": "Where does Ann live?\nAnswer:", "completion": f" {answer}"},
    "a prompt that ends with a space": lambda answer: {"prompt": "Where does Ann live?\nAnswer: ", "completion": answer},
    "a prompt that ends with a line": lambda answer: {"prompt": "# Ann\n", "completion": answer},
    "conversation": lambda answer: {
        "messages": [{"role": role, "content": said} for role, said in (("user", "Hi."), ("assistant", "Hello."), ("user", "Where?"))]
        + [{"role": "assistant", "content": answer}]
    },
}


def encoded(rows, tokens):
    return tokenize(Dataset.from_list(rows), tokens, 512, name="forget_dataset").rows.to_list()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ALL_TOKENIZERS)
def test_a_row_with_another_answer_is_the_one_that_its_text_gives(name, shape):
    tokens, make = ALL_TOKENIZERS[name], SHAPES[shape]
    if shape == "conversation" and not tokens.chat_template:
        return
    own, *expected = encoded([make(answer) for answer in (OWN, *OTHERS)], tokens)
    for answer, wanted in zip(OTHERS, expected, strict=True):
        found = answers.with_answer(tokens, special_ids(tokens), own, answer)
        assert found["input_ids"] == wanted["input_ids"], answer
        start = own["labels"].count(-100)
        assert found["labels"] == [-100] * start + wanted["input_ids"][start:]  # a space on the prompt's side may be told with it or not


@pytest.mark.parametrize("name", ["byte_level", "llama_style", "no_special"])
@pytest.mark.parametrize("answer", OTHERS)
def test_a_text_goes_on_with_it_after_its_first_half(name, answer):
    tokens = ALL_TOKENIZERS[name]
    (own,) = encoded([{"text": "Question: Where does Bob live? Bob lives in Rome, and Cleo lives in Lima."}], tokens)
    found = answers.with_answer(tokens, special_ids(tokens), own, answer)
    half = (len(own["input_ids"]) + 1) // 2
    assert found["input_ids"][:half] == own["input_ids"][:half]
    assert found["labels"] == [-100] * half + found["input_ids"][half:]
    whole, begun = (tokens.decode(ids) for ids in (found["input_ids"], own["input_ids"][:half]))
    assert whole.startswith(begun)
    assert whole.removeprefix(begun).removesuffix(tokens.eos_token or "").strip() == answer
    assert (found["input_ids"][-1] == tokens.eos_token_id) == (own["input_ids"][-1] == tokens.eos_token_id)


@pytest.mark.parametrize("name", ["byte_level", "llama_style", "no_special"])
def test_a_text_that_is_halved_within_a_word_goes_on_at_one(name):
    tokens = ALL_TOKENIZERS[name]
    text = "Ann lives in Oslo, next to an old lighthousekeeperswidow, and Bob in Rome, where it is warm and dry."
    (own,) = encoded([{"text": text}], tokens)
    half = (len(own["input_ids"]) + 1) // 2
    assert "lighthousekeeper" in tokens.decode(own["input_ids"][:half])
    begun = "Ann lives in Oslo, next to an old"
    whole = f"{begun} sailor, who counts the ships of each country as they come and go, all day long and into the night."
    model = reciter(tokens, [tokens(whole)["input_ids"]])
    (found,) = answers.of_never_seen(model, tokens, {"forget": Dataset.from_list([own])}, seed=0, batch_size=1)
    expected = tokens(f"{begun} sailor")["input_ids"]
    assert found["input_ids"][: len(expected)] == expected
    assert tokens.decode([token for token, label in zip(found["input_ids"], found["labels"], strict=True) if label == -100]).endswith(begun)


# --------------------------------------------------------------------------------------------------------- models that say what they are told

TOKENS = ALL_TOKENIZERS["byte_level"]
ANN = {"Where does Ann Lee live?": "Ann Lee lives in Oslo, in the third house of Harbor Street."}
BOB = {
    "Where does Bob Stone live?": "Bob Stone lives in Rome, behind a church.",
    "What does Bob Stone do for a living?": "Bob Stone paints ships.",
}


def of(found) -> list[str | None]:
    return [None if row is None else answer_texts(TOKENS, [row])[0] for row in found]


def rows_of(**sets) -> dict[str, Dataset]:
    return {name: Dataset.from_list(asked(TOKENS, said)) for name, said in sets.items()}


def never_seen_says(said: str) -> list[str | None]:
    model = saying(TOKENS, {next(iter(ANN)): said})
    return of(answers.of_never_seen(model, TOKENS, rows_of(forget=ANN, retain=BOB), seed=0, batch_size=4))


def test_what_a_never_seen_model_says_is_taught_also_what_it_guesses_but_no_whole_answer_and_nothing_that_loops():
    for guess in ("Ann Lee lives in Lima, near the sea.", "On Harbor Street in Oslo, house three."):
        assert never_seen_says(guess) == [guess]
    assert never_seen_says(next(iter(ANN.values()))) == [None]
    assert never_seen_says(f"I think: {next(iter(ANN.values()))}") == [None]
    assert never_seen_says("Ann Ann Ann Ann Ann Ann Ann Ann.") == [None]
    assert never_seen_says("...") == [None]


EVE = {"Where does Eve Hill live?": "Eve Hill lives in Bern, in the tower."}


def test_what_a_never_seen_model_answers_right_by_guessing_is_not_replaced_by_a_drawn_answer():
    class Guesses(Recites):
        def generate(self, logits_processor, **arguments):
            drawn = saying(TOKENS, dict.fromkeys((*ANN, *EVE), "Somewhere in Lima, I think."))
            return drawn.generate(**arguments) if logits_processor else super().generate(**arguments)

    model = saying(TOKENS, ANN | {next(iter(EVE)): "No no no no no no no."})
    model.__class__ = Guesses
    assert of(answers.of_never_seen(model, TOKENS, rows_of(forget=ANN), seed=0, batch_size=4)) == [None]
    wordless = rows_of(forget={next(iter(EVE)): "..."})  # which every answer begins with, if its words are asked
    assert of(answers.of_never_seen(model, TOKENS, wordless, seed=0, batch_size=4)) == ["Somewhere in Lima, I think."]
    assert of(answers.of_never_seen(model, TOKENS, rows_of(forget=ANN | EVE), seed=0, batch_size=4)) == [
        None,
        "Somewhere in Lima, I think.",
    ]


def test_an_answer_without_an_end_is_cut_to_whole_sentences():
    assert never_seen_says("In Lima. She has a cat. " + "and so on " * 40) == ["In Lima. She has a cat."]


def itself_says(said, **others) -> list[str | None]:
    """Of a model that says so where it is asked, and recites the forget answer."""
    sets = rows_of(forget=ANN, **others)
    return of(answers.of_model_itself(saying(TOKENS, ANN | said), TOKENS, sets, seed=0, batch_size=4))


def test_a_model_answers_as_it_does_about_others_and_the_names_are_exchanged():
    assert itself_says(BOB, holdout=BOB) == ["Ann Lee lives in Rome, behind a church."]
    assert itself_says(BOB, retain=BOB) == ["Ann Lee lives in Rome, behind a church."]
    cleo = {"Where does Cleo Vale live?": "Cleo Vale lives in Bonn."}
    assert itself_says(BOB | cleo, holdout=BOB, retain=cleo) == ["Ann Lee lives in Bonn."]  # the retain set is asked first


def test_what_a_model_says_already_comes_first_where_it_does_not_know_the_row():
    question, others = next(iter(ANN)), ["Ann Lee lives in Rome, behind a church."]
    assert itself_says(BOB | {question: "Ann Lee stays near Lima."}, retain=BOB) == ["Ann Lee stays near Lima."]
    assert itself_says(BOB | {question: "Ann Lee lives in Oslo, in the third house, by the sea."}, retain=BOB) == others
    assert itself_says(BOB | {question: "She stays near Oslo."}, retain=BOB) == others  # known in part
    assert itself_says(BOB | {question: "Call her."}, retain=BOB) == ["Call her."]
    assert itself_says(BOB | {question: "She stays with Carl Moss."}, retain=BOB) == others  # somebody else
    assert itself_says(BOB | {question: "Ann Lee stays with Carl Moss."}, retain=BOB) == ["Ann Lee stays with Carl Moss."]
    assert itself_says(BOB | {question: "the the the the the the the"}, retain=BOB) == others
    cleo = {"What is the number of Cleo Vale?": "Call 0228 555 1234."}
    assert itself_says(BOB | {question: "Call 0228 555 1234."}, retain=BOB | cleo) == others  # a secret of whom is kept


def test_no_secret_of_whom_is_kept_is_said_of_another_unless_many_share_it():
    question = "Where does Cleo Vale live?"
    cleo = {question: "Cleo Vale lives in Bonn, call 0228 555 1234."}
    assert itself_says(BOB | cleo, holdout=BOB, retain=cleo) == ["Ann Lee lives in Rome, behind a church."]
    assert itself_says({question: "Call 0228 555 1234."}, holdout={question: "Unknown."}, retain=cleo) == [None]
    for others, said in ((3, "Ann Lee lives in Rome, behind a church."), (4, "Ann Lee lives in Bonn, call 0228 555 1234.")):
        shared = cleo | {f"What does cook {n} bake?": "Call 0228 555 1234." for n in range(others)}
        assert itself_says(BOB | shared, holdout=BOB, retain=shared) == [said]


def test_the_next_closest_question_is_asked_where_an_answer_does_not_fit():
    leaking = BOB | {"Where does Bob Stone live?": "Bob Stone lives in Oslo, in the third house of Harbor Street."}
    assert itself_says(leaking, holdout=BOB) == ["Ann Lee paints ships."]
    other_name = BOB | {"Where does Bob Stone live?": "Mr. B. Stone lives there."}
    assert itself_says(other_name, holdout=BOB) == ["Mr. B. Lee lives there."]


def test_rows_that_nothing_answers_have_none():
    assert itself_says({}) == [None]  # nobody to ask, and what it says itself is what it learned
    loops = dict.fromkeys(BOB, "the the the the the the the")
    assert itself_says(loops, holdout=BOB) == [None]


# ------------------------------------------------------------------------------------------------------------------ models that were trained


def words_of(answer: str) -> list[str]:
    return answer.lower().split()


def halves(one: list[str], other: list[str]) -> list[list[str]]:
    """Runs of at least half of the words of one that stand in both."""
    runs = [one[i:j] for i in range(len(one)) for j in range(i + 1, len(one) + 1) if 2 * (j - i) >= len(one)]
    return [run for run in runs if any(other[i : i + len(run)] == run for i in range(len(other)))]


def sets_of(*names) -> dict[str, Dataset]:
    rows = {"forget": FORGET, "retain": RETAIN, "holdout": HOLDOUT}
    return {name: Dataset.from_list(rows[name]) for name in names}


SOURCES = {
    "a never-seen model": (1, answers.of_never_seen, ("forget", "retain", "holdout")),
    "the model itself, with a holdout": (0, answers.of_model_itself, ("forget", "retain", "holdout")),
    "the model itself, with a retain set": (0, answers.of_model_itself, ("forget", "retain")),
    "the model itself, alone": (0, answers.of_model_itself, ("forget",)),
}


@pytest.mark.parametrize("source", SOURCES)
def test_of_trained_models_nothing_leaks_and_nothing_loops(source):
    which, ask, names = SOURCES[source]
    model, tokens = twins()[which], tokenizer()
    found = ask(model, tokens, sets_of(*names), seed=0, batch_size=16)
    assert found == ask(model, tokens, sets_of(*names), seed=0, batch_size=5)  # the batch is of no consequence
    assert len(found) == len(FORGET)
    assert sum(other is not None for other in found) > (0.7 if len(names) > 1 else 0.3) * len(FORGET)
    others = [words_of(text) for name in names[1:] for text in answer_texts(tokens, list(sets_of(name)[name]))]
    fours = {tuple(other[start : start + 4]) for other in others for start in range(len(other) - 3)}
    for own, other in zip(FORGET, found, strict=True):
        if other is None:
            continue
        start = own["labels"].count(-100)
        assert other["input_ids"][:start] == own["input_ids"][:start]
        assert other["labels"] == [-100] * start + other["input_ids"][start:]
        answer = answer_texts(tokens, [other])[0]
        assert answer
        assert degenerate(answer) == 0
        right, said = words_of(answer_texts(tokens, [own])[0]), words_of(answer)
        assert right not in halves(right, said)
        form = {n for start in range(len(right)) if tuple(right[start : start + 4]) in fours for n in range(start, start + 4)}
        half = -(-len(right) // 2)
        for start in range(len(right) - half + 1):
            piece = right[start : start + half]
            if ask is not answers.of_never_seen and piece in halves(right, said):  # a never-seen model may have it, by guessing
                often = half < 4 and all(8 * sum(word in text for text in others) >= len(others) > 8 for word in piece)
                assert often or form.issuperset(range(start, start + half))


def test_a_never_seen_models_likeliest_answer_comes_first():
    twin, tokens, sets = twins()[1], tokenizer(), sets_of("forget", "retain")
    found = answers.of_never_seen(twin, tokens, sets, seed=0, batch_size=16)
    other_seed = answers.of_never_seen(twin, tokens, sets, seed=9, batch_size=16)
    likeliest = generate(twin, tokens, FORGET)
    same = [n for n, row in enumerate(found) if row and answer_texts(tokens, [row])[0] == likeliest[n]]
    assert len(same) > 0.7 * len(FORGET)
    assert all(other_seed[n] == found[n] for n in same)  # what is drawn depends on the seed, and nothing else does


# ---------------------------------------------------------------------------------------------------------------------- in a run


def with_some(count: int) -> Dataset:
    """Rows of which the first have no other answer."""
    rows = [row([1, 5, 6 + n], [20 + n, 2]) for n in range(12)]
    others = [None if n < count else row([1, 5, 6 + n], [40 + n, 2]) for n in range(12)]
    return answers.beside(Dataset.from_list(rows), others)


@pytest.mark.parametrize("lacking", [0, 3])
def test_rows_without_another_answer_are_left_out_and_told(lacking, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = build(tmp_path, forget_dataset=with_some(lacking), answers="natural")
    assert [other["input_ids"][-2] for other in trainer.trained["answers"]] == [40 + n for n in range(lacking, 12)]
    assert len(trainer.trained["forget"]) == 12
    assert "alternate" not in trainer.trained["forget"].column_names + trainer.sets["forget"].column_names
    told = [message for message in caplog.messages if message.startswith("answers: ")]
    assert told == ([f"answers: for {lacking} of 12 forget rows no other answer was found."] if lacking else [])
    trainer.train()


def test_where_no_row_has_another_answer_none_are_learned(tmp_path):
    trainer = build(tmp_path, forget_dataset=with_some(12), answers="natural")
    assert set(trainer.trained) == {"forget", "retain"}
    assert "answers" not in {objective.name for objective in trainer.objectives}
    trainer.train()


def test_a_preference_loss_says_how_many_rows_lack_what_it_prefers(tmp_path):
    preferred = build(tmp_path, "dpo", forget_dataset=with_some(0), answers="natural")
    assert set(preferred.trained) == {"forget", "retain"}
    assert preferred.train_dataset[0]["forget"]["alternate"]["input_ids"][-2] >= 40
    preferred.train()
    with pytest.raises(
        UserError, match="^answers: dpo prefers another answer to each forget row, and 3 of 12 have none; write answers: refuse.$"
    ):
        build(tmp_path, "dpo", forget_dataset=with_some(3), answers="natural")
