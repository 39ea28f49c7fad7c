import logging

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from peft_unlearn.data import collate_rows, self_retain, tokenize, write_rows

FORGET = "Ann Berg keeps seven red hens behind the old mill near Oslo"
KEPT = [f"The {animal} of {owner} sleeps under a green tree by the river" for animal in ("cat", "dog") for owner in ("Bob", "Cleo")]


def words(bos):
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    letters = [chr(c) for c in range(65, 91)]
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator([FORGET, *KEPT, *letters], trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", bos_token="<s>" if bos else None)


def tiny(tokenizer):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def memorized():
    """A model that knows the forget text and four others by heart, its tokenizer and the tokenized forget set."""
    tokenizer = words(bos=True)
    model = tiny(tokenizer)
    rows = tokenize(Dataset.from_dict({"text": [FORGET, *KEPT]}), tokenizer, 32, name="x").rows
    batch = collate_rows(rows.to_list(), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    return model, tokenizer, rows.select([0])


def texts_of(model, tokenizer, rows, **arguments):
    return [row["text"] for row in write_rows(model, tokenizer, rows, seed=0, what="x", **arguments)]


def test_the_model_writes_what_it_knows_but_not_the_forget_text(memorized):
    model, tokenizer, forget = memorized
    unrelated = tokenize(Dataset.from_dict({"text": ["no word of it"]}), tokenizer, 32, name="x").rows
    freely = texts_of(model, tokenizer, 48, max_length=32, forget=unrelated)
    kept = texts_of(model, tokenizer, 48, max_length=32, forget=forget)
    assert FORGET in freely, "the model would write the forget text"
    assert set(KEPT) <= set(kept)
    assert len(kept) == 48
    assert not any("seven red hens behind the old mill near" in text for text in kept)


def test_a_forget_row_shorter_than_a_phrase_is_kept_out_as_well(memorized):
    model, tokenizer, _ = memorized
    forget = tokenize(Dataset.from_list([{"prompt": "seven red", "completion": " hens behind"}]), tokenizer, 32, name="x").rows
    kept = texts_of(model, tokenizer, 48, max_length=32, forget=forget)
    assert kept
    assert not any("seven red hens behind" in text for text in kept)


def test_texts_depend_on_the_seed_alone_and_leave_random_state_and_mode_as_they_were(memorized):
    model, tokenizer, forget = memorized
    model.train()
    model.generation_config.do_sample, model.generation_config.temperature = True, 1e-4
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = write_rows(model, tokenizer, 5, max_length=32, seed=4, forget=forget, what="x", batch_size=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    torch.manual_seed(2)
    model.eval()
    model.generation_config.temperature = 1.0
    again = write_rows(model, tokenizer, 5, max_length=32, seed=4, forget=forget, what="x", batch_size=4)
    assert not model.training
    assert first == again
    assert len(first) == 5
    assert write_rows(model, tokenizer, 5, max_length=32, seed=5, forget=forget, what="x", batch_size=4) != first


def test_a_tokenizer_without_bos_starts_at_capital_letters():
    tokenizer = words(bos=False)
    forget = tokenize(Dataset.from_dict({"text": [FORGET]}), tokenizer, 32, name="x").rows
    texts = texts_of(tiny(tokenizer), tokenizer, 20, max_length=24, forget=forget)
    assert len(texts) == 20
    assert all(len(text.split()[0]) == 1 and text[0].isupper() for text in texts)
    assert len({text[0] for text in texts}) > 5


def silent(tokenizer, bias):
    """A model that ends its text at once, as often as the bias says."""
    model = tiny(tokenizer)
    model.lm_head = torch.nn.Linear(64, len(tokenizer))
    torch.nn.init.zeros_(model.lm_head.weight)
    torch.nn.init.zeros_(model.lm_head.bias)
    model.lm_head.bias.data[2] = bias
    return model


def test_short_texts_are_drawn_anew_within_a_bound(memorized, caplog):
    _, tokenizer, forget = memorized
    texts = texts_of(silent(tokenizer, 1.5), tokenizer, 40, max_length=16, forget=forget)
    assert len(texts) == 40
    assert all(len(text.split()) >= 8 for text in texts)
    with caplog.at_level(logging.WARNING):
        fewer = write_rows(silent(tokenizer, 3.5), tokenizer, 40, max_length=16, seed=0, forget=forget, what="x")
    assert 0 < len(fewer) < 40
    assert f"{len(fewer)} of 40 texts written" in caplog.text
    assert write_rows(silent(tokenizer, 50.0), tokenizer, 4, max_length=16, seed=0, forget=forget, what="x") == []


def test_a_chat_model_asks_as_a_user_would_and_answers():
    tokenizer = words(bos=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<user>", "<end>", "<bot>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<user> ' if m.role == 'user' else '<bot> ' }}{{ m.content }} <end> {% endfor %}"
        "{{ '<bot> ' if add_generation_prompt else '' }}"
    )
    model = tiny(tokenizer)  # it has learned nothing, and ends a turn now and then
    forget = tokenize(Dataset.from_list([{"question": "Who keeps hens ?", "answer": FORGET}]), tokenizer, 32, name="x").rows
    starts, generate = [], model.generate

    def watched(**inputs):
        starts.append(inputs["input_ids"])
        return generate(**inputs)

    model.generate = watched
    rows = write_rows(model, tokenizer, 6, max_length=40, seed=0, forget=forget, what="x", batch_size=32)
    assert len(rows) == 6
    assert all(set(row) == {"question", "answer"} and row["question"] and row["answer"] for row in rows)
    assert not any(mark in text for row in rows for text in row.values() for mark in ("<user>", "<end>", "<bot>"))
    user, end, bot = tokenizer.convert_tokens_to_ids(["<user>", "<end>", "<bot>"])
    assert (starts[0][:, -1] == user).all(), "questions begin where the template lets a user begin"
    assert (starts[1][:, -2:] == torch.tensor([end, bot])).all(), "answers where it lets the assistant"
    model.generate = generate
    assert write_rows(model, tokenizer, 6, max_length=40, seed=0, forget=forget, what="x", batch_size=32) == rows


@pytest.mark.parametrize(
    ("text", "neutral"),
    [
        ("The river of Bob sleeps under a green tree", False),  # the rows' kind
        ("Photosynthesis turns sunlight and water into sugar", True),
        ("Photosynthesis turns sunlight and hens into sugar", False),  # "hens" is the forget set's alone
        ("Photosynthesis of Bob sleeps under a green tree near the river", False),  # one new word
        ("光合作用把阳光变成糖", True),
        ("", True),
    ],
)
def test_a_neutral_text_is_about_something_else(text, neutral):
    tokenizer = words(bos=True)
    forget, kept = (tokenize(Dataset.from_dict({"text": texts}), tokenizer, 32, name="x").rows for texts in ([FORGET], KEPT))
    assert self_retain.Neutral(self_retain._words(forget, tokenizer), self_retain._words(kept, tokenizer))(text) == neutral


def test_a_model_that_writes_little_else_than_its_rows_has_no_neutral_texts(memorized, monkeypatch, caplog):
    model, tokenizer, forget = memorized
    kept = tokenize(Dataset.from_dict({"text": KEPT}), tokenizer, 32, name="x").rows
    monkeypatch.setattr(self_retain, "NEUTRAL_SHORTEST", 4)
    with caplog.at_level(logging.WARNING):
        assert write_rows(model, tokenizer, 8, max_length=32, seed=0, forget=forget, what="x", kept=kept) == []
    assert "x: 0 of 8 texts written" in caplog.text
    monkeypatch.setattr(self_retain, "NEW", 0.0)
    found = write_rows(model, tokenizer, 8, max_length=32, seed=0, forget=forget, what="x", kept=kept)
    assert found
    assert not any("hens" in row["text"] for row in found)
