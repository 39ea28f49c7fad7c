import logging

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from peft_unlearn.data import collate_rows, tokenize, write_retain_rows, write_rows
from peft_unlearn.util.errors import UserError

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


def test_the_model_writes_what_it_knows_but_not_the_forget_text(memorized):
    model, tokenizer, forget = memorized
    unrelated = tokenize(Dataset.from_dict({"text": ["no word of it"]}), tokenizer, 32, name="x").rows
    freely = write_retain_rows(model, tokenizer, 48, max_length=32, seed=0, forget=unrelated)["text"][:]
    kept = write_retain_rows(model, tokenizer, 48, max_length=32, seed=0, forget=forget)["text"][:]
    assert FORGET in freely, "the model would write the forget text"
    assert set(KEPT) <= set(kept)
    assert len(kept) == 48
    assert not any("seven red hens behind the old mill near" in text for text in kept)


def test_a_forget_row_shorter_than_a_phrase_is_kept_out_as_well(memorized):
    model, tokenizer, _ = memorized
    forget = tokenize(Dataset.from_list([{"prompt": "seven red", "completion": " hens behind"}]), tokenizer, 32, name="x").rows
    kept = write_retain_rows(model, tokenizer, 48, max_length=32, seed=0, forget=forget)["text"][:]
    assert kept
    assert not any("seven red hens behind" in text for text in kept)


def test_texts_depend_on_the_seed_alone_and_leave_random_state_and_mode_as_they_were(memorized):
    model, tokenizer, forget = memorized
    model.train()
    model.generation_config.do_sample, model.generation_config.temperature = True, 1e-4
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = write_retain_rows(model, tokenizer, 5, max_length=32, seed=4, forget=forget, batch_size=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    torch.manual_seed(2)
    model.eval()
    model.generation_config.temperature = 1.0
    again = write_retain_rows(model, tokenizer, 5, max_length=32, seed=4, forget=forget, batch_size=4)
    assert not model.training
    assert first.to_list() == again.to_list()
    assert len(first) == 5
    assert write_retain_rows(model, tokenizer, 5, max_length=32, seed=5, forget=forget, batch_size=4).to_list() != first.to_list()


def test_a_tokenizer_without_bos_starts_at_capital_letters():
    tokenizer = words(bos=False)
    forget = tokenize(Dataset.from_dict({"text": [FORGET]}), tokenizer, 32, name="x").rows
    texts = write_retain_rows(tiny(tokenizer), tokenizer, 20, max_length=24, seed=0, forget=forget)["text"][:]
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
    texts = write_retain_rows(silent(tokenizer, 1.5), tokenizer, 40, max_length=16, seed=0, forget=forget)["text"][:]
    assert len(texts) == 40
    assert all(len(text.split()) >= 8 for text in texts)
    with caplog.at_level(logging.WARNING):
        fewer = write_retain_rows(silent(tokenizer, 3.5), tokenizer, 40, max_length=16, seed=0, forget=forget)
    assert 0 < len(fewer) < 40
    assert f"{len(fewer)} of 40 texts written" in caplog.text
    with pytest.raises(UserError, match="retain_dataset: the model writes no text of its own"):
        write_retain_rows(silent(tokenizer, 50.0), tokenizer, 4, max_length=16, seed=0, forget=forget)


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
