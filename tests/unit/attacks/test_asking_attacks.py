"""Attacks that ask otherwise: against texts as templates write them, plain loops over dense logits, and tokenizers of two makes."""

import copy
import dataclasses
from functools import cache

import numpy as np
import pytest
import torch
import word_rows
from attack_bed import adapted, answer, by_name, context, strengths, text_context, text_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from thinned import thinned
from tiny_models import tiny_llama
from tiny_tokenizers import CHATML, byte_level, llama_style

from peft_unlearn import attacks
from peft_unlearn.attacks import first_tokens, second_turn, tokenizations, two_hop
from peft_unlearn.attacks.asking import row
from peft_unlearn.data.rows import special_ids, split
from peft_unlearn.metrics.rouge_l import rouge_l
from peft_unlearn.model import generation

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}


def plain_tokenizer():
    return byte_level(**SPECIAL)


def chat_tokenizer(template: str = CHATML):
    tokenizer = byte_level(extra=("<|im_start|>", "<|im_end|>"), **SPECIAL)
    tokenizer.chat_template = template
    return tokenizer


TOKENIZERS = {"byte level": plain_tokenizer(), "llama": llama_style(), "chat": chat_tokenizer()}


def decoded(tokenizer, ids) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(alphabet="Answer lives in Oslo.Где住\n<>|", min_size=1, max_size=20),
    name=st.sampled_from(list(TOKENIZERS)),
    seed=st.integers(0, 99),
)
def test_other_tokens_say_the_same_text(text, name, seed):
    tokenizer = TOKENIZERS[name]
    prompt = [0, *tokenizer(text, add_special_tokens=False)["input_ids"], 1]
    shares = (1.0, 0.5, 0.1)
    others = tokenizations.other_tokens(tokenizer, tokenizer.get_vocab(), prompt, shares, seed)
    assert others == tokenizations.other_tokens(tokenizer, tokenizer.get_vocab(), prompt, shares, seed)
    for found in others:
        assert found != prompt
        assert decoded(tokenizer, found) == decoded(tokenizer, prompt)
        assert [token for token in found if token in special_ids(tokenizer)] == [t for t in prompt if t in special_ids(tokenizer)]
        assert len(found) > len(prompt)
    assert len({tuple(found) for found in others}) == len(others)


@pytest.mark.parametrize("name", list(TOKENIZERS))
def test_a_known_word_is_cut_in_every_tokenizer(name):
    tokenizer = TOKENIZERS[name]
    prompt = tokenizer("Ann lives in Oslo.", add_special_tokens=False)["input_ids"]
    (found,) = tokenizations.other_tokens(tokenizer, tokenizer.get_vocab(), prompt, (1.0,), 0)
    assert len(found) > len(prompt)


def test_the_strongest_tokenization_counts():
    ours = text_context(TOKENIZERS["byte level"])
    tokenizer, rows = ours.tokenizer, list(ours.probes["forget"].rows)
    seen = by_name(tokenizations.tokenizations(ours))
    expected = []
    for found in rows:
        prompt, said = split(found, special_ids(tokenizer))
        others = tokenizations.other_tokens(tokenizer, tokenizer.get_vocab(), prompt, tokenizations.SHARES[False], 0)
        expected.append(max(strengths(ours.model, [row(other, said) for other in others])))
    assert seen["other tokenizations of the prompt", "extraction_strength"]["rows"] == pytest.approx(expected)
    with pytest.raises(attacks.Skipped, match="no other pieces"):
        tokenizations.tokenizations(context(adapted()))  # a tokenizer of whole words


def test_a_prompt_that_no_longer_fits_is_not_asked():
    ours = text_context(TOKENIZERS["byte level"])
    ours.model.config.max_position_embeddings = len(ours.probes["forget"].rows[0]["input_ids"])
    values = by_name(tokenizations.tokenizations(ours))["other tokenizations of the prompt", "probability"]["rows"]
    assert values[0] is None
    assert values[2] is not None


def test_a_second_turn_is_what_the_chat_template_writes():
    tokenizer = TOKENIZERS["chat"]
    turns = [("user", "Cleo?"), ("assistant", "No idea, sorry."), ("user", second_turn.AGAIN), ("assistant", "Rome.")]
    (*_, found) = text_rows(tokenizer, chat=True)
    asked = second_turn.second(found, "No idea, sorry.", tokenizer)
    whole = tokenizer.apply_chat_template([{"role": role, "content": text} for role, text in turns], tokenize=False)
    assert decoded(tokenizer, asked["input_ids"]) == whole
    assert answer(asked) == answer(found)


def test_a_second_turn_opens_as_the_row_does():
    """A template that was told not to think writes an empty thought, which the bare template does not."""
    tokenizer = chat_tokenizer(
        CHATML.replace("assistant\n{% endif %}", "assistant\n{% if quiet %}<think>\n\n</think>\n\n{% endif %}{% endif %}")
    )
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Cleo?"}], tokenize=False, add_generation_prompt=True, quiet=True)
    found = row(tokenizer(prompt, add_special_tokens=False)["input_ids"], tokenizer("Rome.", add_special_tokens=False)["input_ids"])
    asked = decoded(tokenizer, second_turn.second(found, "No.", tokenizer)["input_ids"])
    opening = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert asked == f"{prompt}No.<|im_end|>\n<|im_start|>user\n{second_turn.AGAIN}<|im_end|>\n{opening}Rome."


@pytest.mark.parametrize("name", ["byte level", "llama"])
def test_a_second_turn_in_text(name):
    tokenizer = TOKENIZERS[name]
    (found, *_) = text_rows(tokenizer)
    asked = tokenizer.decode(second_turn.second(found, "In Rome.", tokenizer)["input_ids"], skip_special_tokens=True)
    right = f"Question: {second_turn.AGAIN}\nAnswer: Ann lives in Oslo."
    whole = tokenizer(f"Question: Where does Ann live?\nAnswer: In Rome.\n{right}")["input_ids"]
    assert asked == tokenizer.decode(whole, skip_special_tokens=True)  # the Llama's own tokens lack some letters


@pytest.mark.parametrize("name", ["byte level", "llama"])
def test_the_first_half_of_a_text_is_its_question(name):
    tokenizer = TOKENIZERS[name]
    text = word_rows.text(tokenizer("Ann lives in Oslo and Bob lives in Rome")["input_ids"])
    first, rest = (decoded(tokenizer, side) for side in split(text, special_ids(tokenizer)))
    asked = second_turn.second(text, " Lima.", tokenizer)
    before, after = split(asked, special_ids(tokenizer))
    assert decoded(tokenizer, before) == f"{first} Lima.\n{second_turn.AGAIN}\n"
    assert decoded(tokenizer, after) == rest


def test_a_template_that_knows_one_turn_alone_is_skipped():
    strict = "{% if messages|length > 2 %}{{ raise_exception('one turn') }}{% endif %}" + CHATML
    with pytest.raises(attacks.Skipped, match="refuses a second turn"):
        second_turn.second(text_rows(TOKENIZERS["chat"], chat=True)[0], "No.", chat_tokenizer(strict))


@pytest.mark.parametrize("name", ["byte level", "chat"])
def test_a_second_turn_is_scored_after_the_models_own_answer(name):
    ours = text_context(TOKENIZERS[name], chat=name == "chat")
    seen = by_name(second_turn.second_turn(ours))
    expected = []
    for found in ours.probes["forget"].rows:
        prompt, said = split(found, special_ids(ours.tokenizer))
        first = ours.tokenizer.decode(greedy(ours, prompt, len(said) + generation.MARGIN), skip_special_tokens=True).strip()
        expected += strengths(ours.model, [second_turn.second(found, first, ours.tokenizer)])
    assert seen[second_turn.WHAT, "extraction_strength"]["rows"] == pytest.approx(expected)


def greedy(ours, prompt: list[int], limit: int) -> list[int]:
    stops, tokens = {2, *ours.tokenizer.convert_tokens_to_ids(["<|im_end|>"])}, list(prompt)
    with torch.no_grad():
        for _ in range(limit):
            token = int(ours.model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax())
            if token in stops:
                break
            tokens.append(token)
    return tokens[len(prompt) :]


def test_first_tokens_are_the_last_of_the_likeliest_and_go_on_greedily():
    ours = text_context(TOKENIZERS["byte level"])
    special = special_ids(ours.tokenizer)
    values = by_name(first_tokens.first_tokens(ours))["the best behind 4 unlikely first tokens", "rouge_l"]["rows"]
    expected = []
    for found in ours.probes["forget"].rows:
        prompt, said = split(found, special)
        with torch.no_grad():
            logits = ours.model(input_ids=torch.tensor([prompt])).logits[0, -1].numpy()
        likely = [int(token) for token in np.argsort(-logits) if token not in special][:20]
        best = []
        for token in likely[-4:]:
            told = greedy(ours, [*prompt, token], len(said) - 1 + generation.MARGIN)
            best.append(
                rouge_l(ours.tokenizer.decode(said, skip_special_tokens=True), ours.tokenizer.decode(told, skip_special_tokens=True))
            )
        expected.append(max(best))
    assert values == pytest.approx(expected)


def test_a_first_token_behind_which_the_answer_stands_is_found():
    """A model that knows every row by heart, and says the end at once; but behind any other token it goes on with the answer."""
    ours = context(tiny_llama())
    rows = [word_rows.row([1, 10 + i], [20 + i, 30, 31, 32, word_rows.END]) for i in range(3)]
    model = copy.deepcopy(ours.model)

    class Refusing(torch.nn.Module):
        def forward(self, hidden):
            logits = torch.zeros(*hidden.shape[:-1], 64)
            logits[..., 3:] = torch.linspace(0, 1, 61)
            return logits

    model.lm_head = Refusing()
    found = first_tokens.unlikely(attacks.Context(model, ours.tokenizer, {}, {}, "after"), rows, 3)
    assert found == [[44, 45, 46]] * 3


def test_one_token_has_nothing_behind_it():
    ours = context(adapted())
    probe = ours.probes["forget"]._replace(rows=ours.probes["forget"].rows.from_list([word_rows.row([1, 5], [9])]), variants={})
    with pytest.raises(attacks.Skipped, match="single token"):
        first_tokens.first_tokens(attacks.Context(adapted(), ours.tokenizer, {"forget": probe}, {}, "after"))


def test_two_hop_questions_are_a_set_of_their_own():
    ours = text_context(TOKENIZERS["byte level"])
    seen = by_name(two_hop.two_hop(ours))
    for (_, metric), entry in seen.items():
        assert entry["rows"] == ours.plain["after"]["two_hop"][metric]["rows"]
        assert entry["set"] == "two_hop"
    assert {"probability", "rouge_l"} <= {metric for _, metric in seen}
    with pytest.raises(attacks.Skipped, match="eval_dataset: two_hop"):
        two_hop.two_hop(context(adapted()))


@cache
def under_attack(kind: str):
    """One model for all attacks, none of which changes it."""
    tokenizer = TOKENIZERS["chat" if kind == "chat" else "byte level"]
    ours = text_context(tokenizer, chat=kind == "chat", tie=kind == "tied", view="never_seen" if kind == "whole" else "after")
    next(ours.model.modules()).training = True  # flags of single modules come back as well
    return ours


@pytest.mark.parametrize("name", ["tokenizations", "second_turn", "first_tokens", "two_hop", "pruning", "svd", "frag"])
@pytest.mark.parametrize("kind", thinned(["byte level", "chat", "tied", "whole"], every=2))
@pytest.mark.parametrize("full", [False, True])
def test_the_model_is_the_same_bit_for_bit(name, kind, full):
    ours = dataclasses.replace(under_attack(kind), full=full)
    model = ours.model
    ids = torch.arange(3, 40)[None]
    configured = model.generation_config.to_dict()

    def state():
        with torch.no_grad():
            logits = model(input_ids=ids).logits
        flags = [(module.training, [p.requires_grad for p in module.parameters(False)]) for module in model.modules()]
        hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
        return logits, flags, hooks

    before = state()
    attack = attacks.ATTACKS[name]
    if kind == "whole" and not attack.control:
        with pytest.raises(attacks.Skipped, match="whole"):
            attack(ours)
    else:
        assert attack(ours)
    after = state()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert model.generation_config.to_dict() == configured
