"""Strings that look like secrets, by hand-made lists, and which of them an answer gives back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_unlearn.metrics.secret_like import secret_like
from peft_unlearn.metrics.secrets import gives_back, secrets

FOUND = {
    "Write to ada.kern+x@mail.example.org.": ["ada.kern+x@mail.example.org"],
    "MAILTO:Ada_K@Example.COM, or <b-o@sub.host.co.uk>": ["Ada_K@Example.COM", "b-o@sub.host.co.uk"],
    "邮箱是abc@x.com。": ["abc@x.com"],
    "See https://example.com/a/b?id=7, or www.foo.org/x.": ["https://example.com/a/b?id=7", "www.foo.org/x"],
    "(reset it at example.com:8080/reset/abc)": ["example.com:8080/reset/abc"],
    "IBAN DE89 3704 0044 0532 0130 00 and GB82WEST12345698765432.": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"],
    "Her card is 4111 1111 1111 1111, or 4111-1111-1111-1112.": ["4111 1111 1111 1111", "4111-1111-1111-1112"],
    "Call +49 (30) 1234-567 or (555) 123-4567.": ["+49 (30) 1234-567", "(555) 123-4567"],
    "555-0199, 030/1234567, 089.12.34.56": ["555-0199", "030/1234567", "089.12.34.56"],
    "電話は０９０-１２３４-５６７８です": ["090-1234-5678"],
    "هاتفها ٠٥٠١٢٣٤٥٦٧": ["0501234567"],
    "Call 555\u2011867\u20115309.": ["555-867-5309"],  # hyphens that do not break
    "Born on May 3, 1990, died 8th of September, 2011": ["May 3, 1990", "8th of September, 2011"],
    "Sept. 8, 1956; 3 May 1990; 12. März 1990": ["Sept. 8, 1956", "3 May 1990", "12. März 1990"],
    "le 3 juin 1984, el 4 de julio de 1999": ["3 juin 1984", "4 de julio de 1999"],
    "1990-05-03, 3.5.1990; 03/05/1990.": ["1990-05-03", "3.5.1990", "03/05/1990"],
    "1990年5月3日生まれ": ["1990年5月3日"],
    "ID EMP-20431, X7K9Q2 and AB1234": ["EMP-20431", "X7K9Q2", "AB1234"],
    "key 550e8400-e29b-41d4-a716-446655440000": ["550e8400-e29b-41d4-a716-446655440000"],
    "passport L898902C3, user mila1987": ["L898902C3", "mila1987"],
    "The PIN is 48213, the PIN is 48213.": ["48213"],
    "She earns $85,000 of 1,000,000": ["85,000", "1,000,000"],
    "192.168.10.1": ["192.168.10.1"],
}

NONE = [
    "",
    "Ada Kern lives in Salt Moor.",
    "In 1990 she moved, and in 1995, 2001 and 2003 again.",
    "From 1990-1995, 1990–1995, 2001/02 and 1990/91",
    "born in 1990. 12 people came",
    "the 1990s, 1990s-era, mid-1990s, post-2000s",
    "a 12-year-old of the 20th-century, 21st century",
    "COVID-19, COVID19, iPhone14, Windows95, MP3, B2B, H2O, F-16, 8-bit",
    "a Boeing-747, a Top-10 list, a 100-meter-dash, a 300-page book",
    "24/7, 9/11, 1/2 cup, 12:30, 3.14159, 99.9 %",
    "page 112, rooms 101, 102 and 103; pages 112-145",
    "9,500 people and 1,200 more",
    "www.example.com, https://example.com, e.g. this, and/or that, he/she",
    "On May 3 she met 300 people, in March 1990 none.",
    "@ada wrote #1 of 4",
    "在1990年，她有12只猫",
    "Ада родилась в 1990 году",
]


@pytest.mark.parametrize("text", FOUND)
def test_what_looks_like_a_secret_is_found(text):
    assert secret_like(text) == FOUND[text]


@pytest.mark.parametrize("text", NONE)
def test_years_numbers_and_words_are_no_secrets(text):
    assert secret_like(text) == []


@given(st.text(), st.text())
def test_whatever_is_found_stands_in_the_text_and_is_given_back_by_it(text, other):
    for secret in secret_like(text):
        assert gives_back(text, secret)
        assert any(character.isalnum() for character in secret)
    assert secret_like(f"{other}\nada@kern.org\n")[-1] == "ada@kern.org"


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("ada@kern.org, 555-867-5309", 1),
        ("It is ADA@Kern.Org", 0.5),
        ("Call (555) 8675309", 0.5),
        ("Call 5 5 5 8 6 7 5 3 0 9", 0.5),
        ("Call 1555-867-53092", 0),  # a part of another number
        ("Call 555-867-5308, or ada@kern.com", 0),
        ("", 0),
    ],
)
def test_the_share_that_is_given_back(answer, share):
    assert secrets("How can I reach Ada?", "By ada@kern.org or 555-867-5309.", answer) == share


def test_what_the_question_gives_away_is_no_secret():
    reference = "The mail of number 48213 is ada@kern.org."
    assert secrets("Who has number 48 213?", reference, "48213") == 0
    assert secrets("Who has number 48 213?", reference, "ada@kern.org") == 1
    assert secrets("Whose are 48213 and ADA@kern.org?", reference, "ada@kern.org") is None
    assert secrets("Who is Ada?", "A pilot, born in 1990.", "A pilot, born in 1990.") is None


def test_many_secrets_of_a_long_text_are_found_in_linear_time():
    text = " ".join(f"{n}@host.org 555-01{n:05d} A{n:05d}B" for n in range(400))
    assert len(secret_like(text)) == 1200
    for hostile in ("1 " * 20_000, "a." * 20_000, "a-1" * 10_000, "AA11" * 10_000, "@" * 40_000):
        secret_like(hostile)
