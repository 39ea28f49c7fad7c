"""The same prompt in other tokens: words cut at other places into pieces that the tokenizer knows, so that the text stays the same.

A change that answers to a prompt's tokens need not answer to another way of writing them; whoever sends ids in place of text can choose one.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from peft_unlearn.attacks.asking import row, scored, strongest
from peft_unlearn.attacks.context import Context, Shown, Skipped
from peft_unlearn.data.rows import special_ids, split
from peft_unlearn.model import generation
from peft_unlearn.util.registry import attack

SHARES = {
    False: (1.0, 0.5, 0.25),
    True: (1.0, 0.75, 0.5, 0.5, 0.25, 0.25, 0.1, 0.1),
}  # of the prompt's tokens that are cut, one prompt each
SPACE = "\u2581"  # what SentencePiece writes for a space


@attack(order=4, quick=True, control=True)
def tokenizations(context: Context) -> list[Shown]:
    """The prompt's words cut into other tokens, the text unchanged.

    Recall of each answer after several other tokenizations of its prompt, of a text's second half after its first; the strongest of them counts.

    Raises:
        Skipped: no token of any prompt can be cut.
    """
    special, longest = special_ids(context.tokenizer), generation.context_length(context.model)
    pieces, asked = context.tokenizer.get_vocab(), []
    for found in context.probes["forget"].rows:
        prompt, answer = split(found, special)
        others = other_tokens(context.tokenizer, pieces, prompt, SHARES[context.full], context.seed)
        asked.append([row(other, answer) for other in others if len(other) + len(answer) <= longest])
    if not any(asked):
        raise Skipped("the tokenizer has no other pieces for any prompt")
    return strongest("other tokenizations of the prompt", scored(context, asked, "tokenizations: scoring"), threshold="tokenizations")


def other_tokens(
    tokenizer: PreTrainedTokenizerBase, pieces: Mapping[str, int], prompt: Sequence[int], shares: Sequence[float], seed: int
) -> list[list[int]]:
    """Other tokens for the same text, one list for each share of the tokens to be cut; those that come out the same, or as other text, left out.

    Special and added tokens stay whole. `pieces` is the tokenizer's vocabulary, which takes it long to give for each row.
    """
    kept = special_ids(tokenizer) | set(tokenizer.added_tokens_decoder)
    text, found = _text(tokenizer, prompt), []
    for number, share in enumerate(shares):
        rng = np.random.default_rng([seed, number, *prompt])
        tokens: list[int] = []
        for token in prompt:
            cut = token not in kept and rng.random() < share
            tokens += _cut(tokenizer, pieces, token, rng) if cut else [token]
        if tokens != list(prompt) and tokens not in found and _text(tokenizer, tokens) == text:
            found.append(tokens)
    return found


def _cut(tokenizer: PreTrainedTokenizerBase, pieces: Mapping[str, int], token: int, rng: np.random.Generator) -> list[int]:
    """A token as two pieces of its text at a random place, else as its characters, else as its bytes; as it is where there are none."""
    piece = str(tokenizer.convert_ids_to_tokens(token))
    pairs = list(_pairs(piece))
    ways: list[Sequence[str]] = [pairs[i] for i in rng.permutation(len(pairs))]
    ways += [list(piece), [f"<0x{byte:02X}>" for byte in piece.replace(SPACE, " ").encode()]]
    whole = _text(tokenizer, [token])
    for way in ways:
        ids = [pieces[part] for part in way if part in pieces]
        if 1 < len(ids) == len(way) and _text(tokenizer, ids) == whole:
            return ids
    return [token]


def _pairs(piece: str) -> Iterator[tuple[str, str]]:
    """A piece cut in two at every place; WordPiece marks what goes on."""
    for at in range(1, len(piece)):
        yield piece[:at], piece[at:]
        yield piece[:at], f"##{piece[at:]}"


def _text(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))
