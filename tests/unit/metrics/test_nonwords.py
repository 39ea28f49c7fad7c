"""Words that do not exist, with tokenizers of both kinds of vocabulary and on answers of broken and of whole models."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from peft_unlearn.metrics.lexicon import exists, lexicon
from peft_unlearn.metrics.nonwords import nonwords

SETS = [
    "Manuel Silva De Souza's popular novel was adapted into a successful action film in 2010.",
    "Who wrote the book about the old harbour, and where does Xiang Li live?",
    "She likes to walk along the river; he opens a bakery and studies the stars.",
]
BROKEN = [
    "Lupoweasa's Lattes & Lattes & Lattes & Lattes",
    "thewings, thejocoes, and thejelil, thejelillas",
    "cozyx roduced gamebleton frinkly spal theroun",
]
WHOLE = [
    "The popular novel about Manuel was adapted into a film.",
    "Xiang Li lives in the old bakery, walking along the harbour in 1987.",
    "she likes the stars, opens the books and walked along successfully.",
]


def bytes_of(texts):
    """A byte-level BPE of these texts, in which a token that begins a word has a mark."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        [f" {text}" for text in texts] * 9, trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def pieces_of(texts):
    """The same with SentencePiece's mark."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    inner.train_from_iterator(texts * 9, trainers.BpeTrainer(vocab_size=700, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def whole_words(texts):
    """A vocabulary without marks."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", "##ing", *" ".join(texts).split()])}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


@pytest.mark.parametrize("make", [bytes_of, pieces_of, whole_words])
def test_words_of_the_vocabulary_exist_and_pieces_of_words_do_not(make):
    found = lexicon(make(["the harbour Zürich größer harbouring the"]), [])
    assert {"the", "harbour", "zürich", "größer"} <= found
    assert not {"rbour", "bour", "##ing", "unk", "ing", ""} & found


@pytest.mark.parametrize("words_from", ["the vocabulary", "the sets"])
def test_broken_language_is_told_from_whole_by_a_wide_margin(words_from):
    few = bytes_of(["a"])
    known = lexicon(bytes_of(SETS), []) if words_from == "the vocabulary" else lexicon(few, SETS)
    assert min(nonwords(answer, known) for answer in BROKEN) > 0.75
    assert max(nonwords(answer, known) for answer in WHOLE) < 0.1


def test_the_share_by_hand():
    known = {"the", "old", "harbour", "bake"}
    assert nonwords("The old harbour.", known) == 0
    assert nonwords("The olld harbour, thewings", known) == 0.5
    assert nonwords("Thejelil!", known) == 1
    assert nonwords("", known) is None
    assert nonwords("... !", known) is None


def test_numbers_characters_and_english_endings_exist():
    known = {"bake", "harbour", "walk", "star", "quick", "ox"}
    for word in ("1987", "b2b", "3rd", "x", "猫", "harbours", "baked", "baking", "walking", "quickly", "quicker", "stars"):
        assert exists(word, known), word
    for word in ("oxing", "walkz", "starrr", "ing", "thewalk", "harbou"):
        assert not exists(word, known), word


def test_other_scripts_are_read_as_words():
    known = lexicon(bytes_of(["a"]), ["Ада живёт в Москве", "ادا تعيش في القاهرة"])
    assert nonwords("Где живёт Ада?", known) == pytest.approx(1 / 3)
    assert nonwords("ادا في القاهرة", known) == 0
    assert nonwords("猫が好きです", known) == 0  # each character is one
