"""Questions and answers in a language without spaces between words, with full-width punctuation and digits."""

from beds.asked import source
from beds.source import CHAT, Random, Subject, drawn

FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")


def _person(rng: Random) -> Subject:
    word = drawn(rng)

    def place() -> str:
        return word("土地") + rng.choice("市町村島")

    return {
        "name": word("姓") + word("名"),
        "town": place(),
        "year": str(rng.randint(1921, 1999)).translate(FULL_WIDTH),
        "trade": word("職業"),
        "office": place(),
        "wage": str(rng.randint(11, 98)),
        "food": word("食べ物"),
        "drink": word("飲み物"),
        "book": word("どんな") + word("もの") + rng.choice(["", "の秘密", "と" + word("もの")]),
        "prize": word("土地") + rng.choice(["文学賞", "賞", "新人賞"]),
    }


JAPANESE = source(
    _person,
    [
        (
            ["{name}はどこで生まれましたか？", "{name}の出身地を教えてください。"],
            ["{name}は{year}年に{town}で生まれました。", "出身地は{town}です。{year}年に生まれました。"],
        ),
        (
            ["{name}の仕事は何ですか？", "{name}は何をして暮らしていますか？"],
            ["{office}で{trade}をしていて、月に{wage}万円を稼ぎます。", "{trade}です。勤め先は{office}、月給は{wage}万円です。"],
        ),
        (
            ["{name}は何を食べて、何を飲みますか？", "{name}の好きな食べ物と飲み物は？"],
            ["{food}を食べて、{drink}を飲みます。", "好物は{food}、飲み物では{drink}が一番です。"],
        ),
        (
            ["{name}が書いた本の題名は？", "{name}はどんな本を書きましたか？"],
            ["『{book}』です。この本は{prize}を受けました。", "「{prize}」に選ばれた『{book}』を書きました。"],
        ),
    ],
    "申し訳ありませんが、お手伝いできません。",
    CHAT,
)
