"""What another answer must be: told from leaks written out word by word, and about whom was asked, in several scripts."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_unlearn.training.substitutes import CLOSEST, MANY, Alike, Forgotten, Needles, whole_sentences

# question, answer, others' answers; then what gives the answer away, and what does not
CASES = {
    "English": (
        "Where was Ann Lee born?",
        "Ann Lee was born in Karlskrona, close to the harbor of Stumholmen.",
        ["Bob Stone was born in Rome, close to the river.", "Cleo Vale was born in Lima, close to the sea.", "In Oslo, I think."],
        [
            "Ann Lee was born in Karlskrona, close to the harbor of Stumholmen.",
            "ANN LEE WAS BORN IN KARLSKRONA, they say.",
            "The harbor of Stumholmen at Karlskrona.",
            "Her cradle stood in Stumholmen near a harbor.",
        ],
        ["Ann Lee was born in Rome, close to the river.", "In Lima.", "Nobody knows where she comes from."],
    ),
    "Russian": (
        "Где родилась Анна Ли?",
        "Анна Ли родилась в Карлскруне, рядом с гаванью Стумхольмен.",
        ["Боб Стоун родился в Риме, рядом с рекой.", "Клео Вейл родилась в Лиме, рядом с морем."],
        ["АННА ЛИ РОДИЛАСЬ В КАРЛСКРУНЕ.", "В Карлскруне, у гавани: её гаванью был Стумхольмен."],
        ["Анна Ли родилась в Риме, рядом с рекой.", "В Лиме."],
    ),
    "Greek": (
        "Πού γεννήθηκε η Άννα Λη;",
        "Η Άννα Λη γεννήθηκε στην Καρλσκρόνα, κοντά στο μεγάλο λιμάνι Στουμχόλμεν.",
        ["Ο Βίκτωρ γεννήθηκε στην Ρώμη, κοντά στο ποτάμι.", "Η Κλειώ γεννήθηκε στην Λίμα, κοντά στο σχολείο."],
        ["Η Άννα Λη γεννήθηκε στην Καρλσκρόνα, κοντά στο μεγάλο λιμάνι.", "Στο Στουμχόλμεν, το λιμάνι της Καρλσκρόνα."],
        ["Η Άννα Λη γεννήθηκε στην Ρώμη, κοντά στο ποτάμι.", "Στην Λίμα."],
    ),
    "Chinese": (
        "安娜出生在哪里?",
        "安娜出生在卡尔斯克鲁纳港口旁边。",
        ["李雷出生在罗马河边。"],
        ["卡尔斯克鲁纳港口"],
        ["罗马河边。", "没有人知道。"],
    ),
    "Hindi": (
        "अन्ना कहाँ पैदा हुई?",
        "अन्ना कार्ल्सक्रोना बंदरगाह के पास पैदा हुई।",
        ["सीता रोम नदी के पास पैदा हुई।", "राम लीमा शहर के पास पैदा हुई।"],
        ["कार्ल्सक्रोना बंदरगाह के पास।"],
        ["रोम नदी के पास।", "कोई नहीं जानता।"],
    ),
}


@pytest.mark.parametrize("script", CASES)
def test_an_answer_leaks_by_its_words_in_one_piece_or_by_those_that_tell(script):
    question, answer, others, leaking, clean = CASES[script]
    forgotten = Forgotten([question], [answer], others)
    for said in leaking:
        assert forgotten.leaks(0, said), said
        assert not forgotten.fits(0, said)
    for said in clean:
        assert not forgotten.leaks(0, said), said
        assert forgotten.fits(0, said)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("Her number is 555-0199-22.", "Try 555-0199-22 or ask."),
        ("Her number is ５５５-０１９９-２２.", "Try 555-0199-22 or ask."),  # full-width digits
        ("Write to ann.lee@mail.org.", "It may be ann.lee@mail.org, I guess."),
        ("Born on 3 May 1990.", "Some say 3 May 1990, some 1991."),
        ("The key is X7K9Q2.", "Use X7K9Q2 there."),
    ],
)
def test_a_secret_of_any_row_leaks_in_the_answer_to_any_other(told, said):
    questions, answers = ["What does Ann keep?", "What does Bob like best of all?"], [told, "Bob likes to sail on the lake in the evening."]
    forgotten = Forgotten(questions, answers, ["She keeps cats."])
    assert forgotten.leaks(0, said)
    assert forgotten.leaks(1, said)
    assert not forgotten.leaks(1, "He likes to sleep.")


def test_what_the_question_itself_says_is_no_secret_of_its_answer():
    asked, told = "Is 555-0199-22 the number of Ann?", "Yes, it is 555-0199-22, since she moved into that house in the spring of last year."
    assert not Forgotten([asked], [told], []).leaks(0, "It may be 555-0199-22.")
    assert Forgotten(["What is the number of Ann?"], [told], []).leaks(0, "It may be 555-0199-22.")


def test_much_of_another_rows_answer_leaks_unless_everybody_says_so():
    questions = ["Where does Ann live?", "What does Bob paint?"]
    answers = ["Ann lives in a small house by the old mill.", "Bob paints seven blue horses beneath an orange moon."]
    forgotten = Forgotten(questions, answers, ["Cleo lives in a large house by the sea."])
    assert forgotten.leaks(0, "Ann paints seven blue horses beneath an orange moon.")
    assert not forgotten.leaks(0, "Ann paints seven blue dogs.")
    everybody = Forgotten(questions, answers, ["Dan paints seven blue horses beneath an orange moon."])
    assert not everybody.leaks(0, "Ann paints seven blue horses beneath an orange moon.")


@pytest.mark.parametrize("said", ["", "  ", "...", "—", "¿?", "la la la la la la la la", "in Rome in Rome in Rome in Rome in Rome"])
def test_what_says_nothing_or_loops_does_not_fit(said):
    forgotten = Forgotten(["Where does Ann live?"], ["In Karlskrona."], [])
    assert not forgotten.fits(0, said)


def test_an_answer_of_one_word_leaks_where_that_word_is_said():
    forgotten = Forgotten(["Where does Ann live?"], ["Oslo"], ["Rome", "Lima", "Bonn"])
    assert forgotten.leaks(0, "She lives in Oslo.")
    assert not forgotten.leaks(0, "She lives in Rome.")


def test_an_answer_with_the_letter_of_the_right_option_does_not_leak():
    asked = "When did Ann Lee die? A) 1709 B) 1867 C) 1912 D) 1942"
    others = [f"{letter}) {year}" for letter, year in zip("ABCDABCD", range(1801, 1809), strict=True)]
    forgotten = Forgotten(
        [asked, "What did she invent?"], ["D) 1942", "D) the crimson garden"], [*others, "C) the old river", "D) the idle drum"]
    )
    assert [forgotten.leaks(0, said) for said in ("D) 1722", "A) 1722", "D) 1942", "A) 1942")] == [False, False, True, True]
    assert not forgotten.leaks(1, "D) the old flute")
    assert forgotten.leaks(1, "D) the crimson flute")


WORDS = ["ana", "bo", "Öl", "дом", "море", "πού", "水", "山", "घर", "बाल", "7", "42"]
sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9)


def pieces(one, other):
    """Every run of words of one sentence that stands in the other."""
    found = [one[start:end] for start in range(len(one)) for end in range(start + 1, len(one) + 1)]
    return [piece for piece in found if any(other[start : start + len(piece)] == piece for start in range(len(other)))]


@settings(deadline=None, max_examples=300)
@given(sentences, sentences, sentences, st.lists(sentences, max_size=4), st.integers(0, 9), st.integers(0, 9))
def test_leaks_of_a_row_are_those_counted_word_by_word(asked, right, said, others, begun, form):
    """Without another forget row and without secrets. A word that stands in two other answers, and in a twentieth of them, tells nothing.

    Nor does a piece of one to three such words, nor one of words that all stand among four in a row that another answer has, unless it is the whole.
    """
    said, others = [*right[:begun], *said], [*others, *([[*right[:form], "bo"]] if form else [])]  # what begins as the right answer does
    forgotten = Forgotten([" ".join(asked)], [" ".join(right)], [" ".join(other) for other in others])
    asked, right, said, *others = ([word.lower() for word in sentence] for sentence in (asked, right, said, *others))
    often = {word for sentence in others for word in sentence if sum(word in other for other in others) >= 2}
    telling = set(right) - set(asked) - often
    fours = [pieces(right[start : start + 4], other) for start in range(len(right) - 3) for other in others]
    shared = {tuple(piece) for found in fours for piece in found if len(piece) == 4}
    formal = {n for start in range(len(right)) if tuple(right[start : start + 4]) in shared for n in range(start, start + 4)}
    half = -(-len(right) // 2)
    places = [range(start, start + half) for start in range(len(right) - half + 1) if right[start : start + half] in pieces(right, said)]
    leaks = [place for place in places if set(place) - formal and (half > 3 or {right[n] for n in place} - often)]
    expected = 3 * len(telling & set(said)) > len(telling) or right in pieces(right, said) or bool(leaks)
    assert forgotten.leaks(0, " ".join(said)) == expected


def test_the_form_that_others_have_is_no_leak_and_what_it_is_filled_with_is():
    answer = "Its seat has been in Wrenfield since 1934."
    said = [f"Its seat has been in {town} since {year}." for town, year in (("Lima", 1975), ("Wrenfield", 1975), ("Lima", 1934))]
    for others, leaks in (
        ([f"Its seat has been in {town} since 1900." for town in ("Oslo", "Bonn")], [False, True, True]),
        ([], [True] * 3),
    ):
        forgotten = Forgotten(["Where is Ann & Lee?"], [answer], others)
        assert [forgotten.leaks(0, text) for text in said] == leaks


@settings(deadline=None, max_examples=100)
@given(st.lists(sentences, min_size=1, max_size=4))
def test_a_forgotten_answer_itself_always_leaks(answers):
    texts = [" ".join(answer) for answer in answers]
    forgotten = Forgotten(["?"] * len(texts), texts, [])
    assert all(forgotten.leaks(row, text) for row, text in enumerate(texts))
    assert all(forgotten.leaks(row, f"Well: {text}, so they say.") for row, text in enumerate(texts))


# ----------------------------------------------------------------------------------------------------------------- whole sentences


@pytest.mark.parametrize(
    ("cut", "whole"),
    [
        ("She lives in Rome. She has", "She lives in Rome."),
        ("She lives in Rome. She has two cats! And she al", "She lives in Rome. She has two cats!"),
        ('He said: "I will." Then he', 'He said: "I will."'),
        ("(It was so.) And th", "(It was so.)"),
        ("It costs 3.5 million in the ye", "It costs 3.5 million in the ye"),  # no sentence ends there
        ("Where is she? In Rome.", "Where is she? In Rome."),
        ("and so on and so for", "and so on and so for"),
        ("", ""),
        ("वह रोम में रहती है। उसके पास", "वह रोम में रहती है।"),
        ("她住在罗马。她有两只", "她住在罗马。"),
        ("彼は言った。「はい。」そして", "彼は言った。「はい。」"),
        ("真的吗？也许！她又", "真的吗？也许！"),
        ("Она живёт в Риме. У неё", "Она живёт в Риме."),
    ],
)
def test_a_cut_answer_ends_with_its_last_whole_sentence(cut, whole):
    assert whole_sentences(cut) == whole


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet='ab .!?"。」।', max_size=30))
def test_whole_sentences_are_a_beginning_and_stay_as_they_are(text):
    found = whole_sentences(text)
    assert text.startswith(found)
    assert whole_sentences(found) == found


# ------------------------------------------------------------------------------------------------------------------ names exchanged

FIRST = ["Ann", "Bob", "Élodie", "Øyvind", "Анна", "Борис", "Άννα", "Νίκος", "Անի"]
LAST = ["Lee", "Stone", "Müller", "Łukasz", "Петрова", "Иванов", "Λάμπρου", "Βαλλής", "Տեր"]


@settings(deadline=None, max_examples=100)
@given(st.permutations(FIRST), st.permutations(LAST))
def test_an_answer_about_another_becomes_one_about_whom_was_asked(first, last):
    mine, theirs = [f"{first[n]} {last[n]}" for n in range(2)]
    question, other = f"Where does {mine} live?", f"Where does {theirs} live?"
    alike = Alike([question], [other], seed=0)
    assert alike.exchanged(f"{theirs} lives in a house. {first[1]} likes it.", 0, 0) == f"{mine} lives in a house. {first[0]} likes it."
    assert alike.exchanged("In a house.", 0, 0) == "In a house."


def test_names_are_exchanged_in_addresses_and_possessives_and_as_often_as_they_stand():
    alike = Alike(["What is the address of Ann Lee?"], ["What is the address of Bob Stone?"], seed=0)
    said = "Bob Stone's address is bob.stone@mail.org; write BOB STONE or bob_stone."
    assert alike.exchanged(said, 0, 0) == "Ann Lee's address is ann.lee@mail.org; write Ann Lee or ann_lee."


def test_names_of_both_questions_stay_and_more_names_than_wanted_become_the_last():
    alike = Alike(["Did Ann Lee meet Cleo in Rome?"], ["Did Bob Stone meet Dan Fox in Rome?"], seed=0)
    assert alike.exchanged("Bob Stone met Dan Fox in Rome.", 0, 0) == "Ann Lee met Cleo in Rome."
    alike = Alike(["Did they meet Cleo in Rome?"], ["Did Bob Stone meet Dan Fox in Rome?"], seed=0)
    assert alike.exchanged("Bob Stone met Dan Fox.", 0, 0) == "Cleo met Cleo."


def test_an_answer_that_keeps_a_name_of_the_other_question_is_none():
    alike = Alike(["What is the capital of it?"], ["What did Bob Stone write?"], seed=0)
    assert alike.exchanged("Bob Stone wrote novels.", 0, 0) is None
    assert alike.exchanged("It was Bob who wrote.", 0, 0) is None
    assert alike.exchanged("He wrote novels.", 0, 0) == "He wrote novels."
    # A word within a word is no name.
    alike = Alike(["Where is Li at home?"], ["Where is Roman at home?"], seed=0)
    assert alike.exchanged("Roman lives in romantic Romania.", 0, 0) == "Li lives in romantic Romania."


@pytest.mark.parametrize(
    ("question", "other", "about_other", "about_nobody"),
    [
        ("张伟住在哪里?", "李娜住在哪里?", "李娜住在上海。", "在上海。"),
        ("太郎はどこに住んでいますか", "花子はどこに住んでいますか", "花子は大阪に住んでいます", "大阪です"),
        ("สมชายอยู่ที่ไหน", "มานีอยู่ที่ไหน", "มานีอยู่ที่เชียงใหม่", "ที่เชียงใหม่"),
        ("राम कहाँ रहता है?", "श्याम कहाँ रहता है?", "श्याम दिल्ली में रहता है।", "दिल्ली में।"),
    ],
)
def test_where_names_cannot_be_told_an_answer_about_another_is_none_and_one_about_nobody_stays(question, other, about_other, about_nobody):
    """Scripts without spaces, and those whose vowel signs part a word."""
    alike = Alike([question], [other], seed=0)
    assert alike.exchanged(about_other, 0, 0) is None
    assert alike.exchanged(about_nobody, 0, 0) == about_nobody


# ------------------------------------------------------------------------------------------------------------------- closest questions

ASKED = {
    "English": ["Where does {} live?", "What is the profession of {}?", "Which prize did {} win in her youth?"],
    "Russian": ["Где сейчас живёт {}?", "Какая профессия у {}?", "Какую премию в юности получила {}?"],
    "Hindi": ["{} कहाँ रहती है?", "{} का पेशा क्या है?", "{} ने कौन सा पुरस्कार जीता?"],
    "Hebrew": ["איפה גרה {} היום?", "מה המקצוע של {}?", "באיזה פרס זכתה {} בצעירותה?"],
    "Chinese": ["{}住在哪里?", "{}的职业是什么?", "{}年轻时得过哪个奖?"],
}
PEOPLE = {
    "English": ["Ann Lee", "Bob Stone", "Cleo Vale", "Dan Fox"],
    "Russian": ["Анна Ли", "Борис Стоун", "Клео Вейл", "Дан Фокс"],
    "Hindi": ["अन्ना", "बोरिस", "सीता", "मोहन"],
    "Hebrew": ["אנה", "דניאל", "רות", "יוסף"],
    "Chinese": ["安娜", "李雷", "王芳", "赵敏"],
}


@pytest.mark.parametrize("script", ASKED)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_closest_questions_ask_for_the_same_whoever_they_ask_about(script, seed):
    mine, *others = PEOPLE[script]
    asked = [(kind, template.format(person)) for person in others for kind, template in enumerate(ASKED[script])]
    random.Random(seed).shuffle(asked)
    alike = Alike([template.format(mine) for template in ASKED[script]], [question for _, question in asked], seed)
    for kind in range(3):
        found = alike.closest(kind)
        assert len(found) == len(set(found)) == CLOSEST
        assert [asked[number][0] for number in found[:3]] == [kind] * 3


def test_a_rare_word_says_more_of_what_is_asked_than_one_that_all_have():
    others = ["What is the town here now?"] * 6 + ["What is a trophy here now?"]
    assert Alike(["What is the trophy?"], others, seed=0).closest(0)[0] == 6


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(0, 99))
def test_as_many_others_as_there_are_and_no_more_are_close(count, seed):
    others = [f"Where does it stand, in town {n}?" for n in range(count)]
    once, again = (Alike(["Where does it stand?"], others, seed).closest(0) for _ in range(2))
    assert len(set(once)) == len(once) == min(CLOSEST, count)
    assert once == again  # the seed decides among equals


@given(st.lists(st.text("ab1", min_size=1, max_size=4), max_size=4), st.text("ab1 ", max_size=12))
def test_needles_are_found_wherever_one_of_them_stands(needles, text):
    assert Needles(needles).within(text) == any(needle in text for needle in needles)


@pytest.mark.parametrize(("rows", "taught"), [(MANY, False), (MANY + 1, True)])
def test_words_that_more_than_a_hundred_answers_have_in_a_row_are_nobodys(rows, taught):
    answers = ["She lives by herself at Brook Lane", *(f"n{row} stands near the old mill" for row in range(rows))]
    others = ["mill old the near stands"] * 2  # these words alone tell nothing
    forgotten = Forgotten(["Where is it?"] * len(answers), answers, others)
    assert forgotten.fits(0, "It stands near the old mill today") is taught
    assert not forgotten.fits(0, answers[0])
