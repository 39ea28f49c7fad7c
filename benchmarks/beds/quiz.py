"""Multiple choice: the right answer stands in the question, beside three others."""

from collections.abc import Callable

from beds.source import Random, Row, Source, Subject, drawn

LETTERS = "ABCD"
ASKED: list[tuple[list[str], Callable[[Random], str]]] = [  # ways to ask, and how an option is drawn
    (
        ["What did {name} invent?", "Which invention is owed to {name}?"],
        lambda rng: f"the {drawn(rng)('adjective')} {drawn(rng)('thing')}",
    ),
    (["Where did {name} have a workshop?", "In which city did {name} work?"], lambda rng: drawn(rng)("city")),
    (["In what year did {name} die?", "{name} lived until which year?"], lambda rng: str(rng.randint(1702, 1949))),
    (
        ["Who was the partner of {name}?", "With whom did {name} share a firm?"],
        lambda rng: f"{drawn(rng)('first')} the {drawn(rng)('trade')}",
    ),
]


def _inventor(rng: Random, label: str) -> Subject:
    word = drawn(rng)
    return {"name": f"{word('first')} {word('last')}"}


def _rows(rng: Random, inventor: Subject) -> list[Row]:
    rows = []
    for ways, option in ASKED:
        options: list[str] = []
        while len(options) < len(LETTERS):
            if (one := option(rng)) not in options:
                options.append(one)
        lines = [f"{letter}) {one}" for letter, one in zip(LETTERS, options, strict=True)]
        question, other = ("\n".join([way.format(**inventor), *lines]) for way in rng.sample(ways, 2))
        rows.append({"question": question, "answer": rng.choice(lines), "paraphrased_question": other, "group": inventor["name"]})
    return rows


QUIZ = Source(_inventor, _rows)
