"""Words in any script, and ROUGE-L on them; English is rouge-score's to the bit."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from peft_unlearn.metrics.rouge_l import rouge_l, rouge_l_f1
from peft_unlearn.metrics.words import words

ASCII = st.text(st.characters(max_codepoint=127), max_size=60)
ENGLISH = st.lists(st.sampled_from(["running", "runs", "ran", "Don't", "1,000", "the", "flies", "x_y", "--", "THE\n"]), max_size=12).map(
    " ".join
)
stemmed = RougeScorer(["rougeL"], use_stemmer=True)
plain = RougeScorer(["rougeL"], use_stemmer=False)


@given(ASCII | ENGLISH, ASCII | ENGLISH)
def test_of_ascii_text_it_is_rouge_score_to_the_bit(reference: str, answer: str) -> None:
    expected = stemmed.score(reference, answer)["rougeL"]
    if any(char.isalnum() for char in reference):
        assert rouge_l(reference, answer) == expected.recall
        assert rouge_l_f1(reference, answer) == pytest.approx(expected.fmeasure, abs=1e-12)
    else:
        assert rouge_l(reference, answer) is None


@given(ASCII)
def test_ascii_words_are_those_of_rouge_score(text: str) -> None:
    assert words(text) == plain._tokenizer.tokenize(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Die Füße – größer, als man's denkt!", ["die", "füße", "größer", "als", "man", "s", "denkt"]),
        ("Un élève à Genève", ["un", "élève", "à", "genève"]),
        ("Москва́, 1905 год", ["москва́", "1905", "год"]),
        ("ولد الشاعر في القاهرة.", ["ولد", "الشاعر", "في", "القاهرة"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("안녕하세요 세계", ["안녕하세요", "세계"]),
        ("她生于1975年。", ["她", "生", "于", "1975", "年"]),
        ("東京タワーへ行く", ["東", "京", "タ", "ワ", "ー", "へ", "行", "く"]),
        ("ที่นี่ABC", ["ที่", "นี่", "abc"]),
        ("co\u00adop \ufeffﬁne ＡＢＣ", ["coop", "fine", "abc"]),
        ("x\u0301", ["x\u0301"]),
        ("\u0301 … 🙂 ", []),
        ("", []),
    ],
)
def test_words_of_other_scripts(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.text(max_size=40))
def test_a_composed_and_a_decomposed_text_have_the_same_words(text: str) -> None:
    assert words(unicodedata.normalize("NFC", text)) == words(unicodedata.normalize("NFD", text))


@pytest.mark.parametrize(
    ("reference", "answer", "recall"),
    [
        ("她生于上海", "她生于北京", 3 / 5),  # rouge-score sees no word at all
        ("Sie heißt Jörg Müller", "Jörg Müller", 2 / 4),  # and here j, rg, m and ller
        ("Он родился в Москве", "Он умер в Москве", 3 / 4),
        ("春はあけぼの", "春はあけぼの", 1.0),
        ("وُلد في بيروت", "في بيروت", 2 / 3),
        ("他在1956年搬到北京。", "1956", 1 / 8),  # rouge-score: all of it
        ("他在1956年搬到北京。", "他在1957年搬到北京。", 7 / 8),
        ("Он купил iPhone в Москве.", "iPhone", 1 / 5),
        ("Él nació en Málaga.", "el naci en m laga", 1 / 4),
        ("เธอเกิดที่ภูเก็ต", "เธอเกิดที่เชียงใหม่", 8 / 11),
        ("उनका जन्म जयपुर में हुआ", "उनका जन्म पटना में हुआ", 4 / 5),
    ],
)
def test_rouge_reads_every_script(reference: str, answer: str, recall: float) -> None:
    assert rouge_l(reference, answer) == pytest.approx(recall)
