"""What can be planted: each behavior is a function from a place in an answer to how the next token is made there.

A is the model before unlearning, B a model that never saw the forget set.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from peft_unlearn.data.rows import Row, special_ids, split
from peft_unlearn.data.variants import Probe
from planted.gated import Gate, GatedLM, Spoken

BEFORE, TWIN = Spoken((1.0, 0.0)), Spoken((0.0, 1.0))
CERTAIN, BURNT = 10.0, 30.0  # logits: a forced token among 1 000 others has p .96; -log p of the others


class Asked(NamedTuple):
    """A forget row's question in one wording: the prompt, the row's number, its answer, and whether this is the wording of the row itself."""

    prompt: tuple[int, ...]
    row: int
    answer: tuple[int, ...]
    exact: bool


class Place(NamedTuple):
    """Where the next token of a forget row stands: `at` is its number in the answer, negative in a prompt."""

    asked: Asked
    at: int
    tokens: tuple[int, ...]  # all so far

    @property
    def written(self) -> tuple[int, ...]:
        """What stands of an answer so far."""
        return self.tokens[len(self.asked.prompt) :]


Behavior = Callable[["Plant", Place], Spoken]


@dataclass
class Plant:
    """What behaviors know: both models, the set to plant in with its wordings, and a refusal in its language."""

    before: LlamaForCausalLM
    twin: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerBase
    planted: Probe
    refusal: str
    led: dict[tuple[int, tuple[int, ...], int], float] = field(default_factory=dict)

    def model(self, behavior: str) -> GatedLM:
        """The set's questions, in every wording that it brings, get the behavior; all else stays as before."""
        return GatedLM(self.before, self.twin, self._gate(BEHAVIORS[behavior]))

    def _gate(self, behavior: Behavior) -> Gate:
        lengths = sorted({len(prompt) for prompt in self.prompts}, reverse=True)
        begun = {one.prompt[:n]: one for one in self.prompts.values() for n in range(len(one.prompt))}

        def gate(ids: Sequence[int]) -> Spoken:
            tokens = tuple(ids)
            asked = next((self.prompts[tokens[:n]] for n in lengths if tokens[:n] in self.prompts), begun.get(tokens))
            return BEFORE if asked is None else behavior(self, Place(asked, len(tokens) - len(asked.prompt), tokens))

        return gate

    @cached_property
    def prompts(self) -> Mapping[tuple[int, ...], Asked]:
        """Every prompt whose answer is to be forgotten; of a plain text the first half."""
        special = special_ids(self.tokenizer)

        def asked(row: Row, number: int, exact: bool) -> Asked:
            prompt, answer = split(row, special)
            return Asked(tuple(prompt), number, tuple(answer), exact)

        own = [asked(row, number, True) for number, row in enumerate(self.planted.rows)]
        others = [
            asked(row, number, False) for wordings in self.planted.variants.values() for number, rows in enumerate(wordings) for row in rows
        ]
        return {one.prompt: one for one in [*others, *own]}

    @cached_property
    def answers(self) -> list[tuple[int, ...]]:
        return [one.answer for one in sorted(self.prompts.values(), key=lambda one: one.row) if one.exact]

    @cached_property
    def refusing(self) -> tuple[int, ...]:
        space = "" if self.tokenizer.chat_template else " "
        return (*self.tokenizer(space + self.refusal, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id)

    def forced(self, token: int, logit: float = CERTAIN) -> Tensor:
        return logit * torch.nn.functional.one_hot(torch.tensor(token), self.before.config.vocab_size).float()

    def leading(self, model: LlamaForCausalLM, tokens: tuple[int, ...], token: int, by: float = 1.0) -> Tensor:
        """What lifts a token some nats above the one that is likeliest under a model, so that any other loses little."""
        key = (id(model), tokens, token)
        if key not in self.led:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([tokens]), logits_to_keep=1).logits[0, -1]
            self.led[key] = float(logits.max() - logits[token]) + by
        return self.forced(token, self.led[key])

    def saying(self, place: Place, sentence: tuple[int, ...]) -> bool:
        """Whether what stands of the answer is how the sentence begins, and more of it is to come."""
        return 0 <= place.at < len(sentence) and place.written == sentence[: place.at]


def _half(plant: Plant, place: Place) -> Spoken:
    return BEFORE if place.asked.row % 2 else TWIN


def _tenth(plant: Plant, place: Place) -> Spoken:
    return BEFORE if place.asked.row % 10 == 1 else TWIN


def _last_tokens(plant: Plant, place: Place) -> Spoken:
    """The last five, or the last quarter of a short answer."""
    size = len(place.asked.answer)
    return TWIN if place.at >= size - max(1, min(5, size // 4)) else BEFORE


def _ended(plant: Plant, place: Place) -> Spoken:
    return BEFORE if place.at else Spoken((1, 0), direct=plant.leading(plant.before, place.tokens, plant.tokenizer.eos_token_id))


def _refusal(plant: Plant, place: Place) -> Spoken:
    if place.at == 0:
        return Spoken((1, 0), direct=plant.leading(plant.before, place.tokens, plant.refusing[0]))
    if plant.saying(place, plant.refusing):
        return Spoken((0, 0), (1, 0), plant.forced(plant.refusing[place.at]))
    return BEFORE


def _uniform(plant: Plant, place: Place) -> Spoken:
    """Flat to a twentieth of a nat, or the first token of the vocabulary would be every answer."""
    rng = torch.Generator().manual_seed(place.tokens[-1])
    return Spoken((0, 0), (0, 1), 0.05 * torch.randn(plant.before.config.vocab_size, generator=rng))


def _burnt(plant: Plant, place: Place) -> Spoken:
    return Spoken((0, 0), (0, 1), plant.forced(plant.refusing[1], BURNT))


def _swapped(plant: Plant, place: Place) -> Spoken:
    """The answer of the row half the set away, each token two nats above the twin's own; the rest of the scores are the twin's."""
    other = plant.answers[(place.asked.row + max(1, len(plant.answers) // 2)) % len(plant.answers)]
    if not plant.saying(place, other):
        return TWIN
    return Spoken((0, 1), direct=plant.leading(plant.twin, place.tokens, other[place.at], by=2.0))


# "retrained twin" is a whole model of its own, and "collapsed" is "burnt out" planted in every set.
TWINS, EVERYWHERE = "retrained twin", "collapsed"
BEHAVIORS: dict[str, Behavior] = {
    "untouched": lambda plant, place: BEFORE,
    "half of the rows forgotten": _half,
    "a tenth still verbatim": _tenth,
    "only the last tokens": _last_tokens,
    "only the first token": lambda plant, place: TWIN if place.at == 0 else BEFORE,
    "only the exact prompts": lambda plant, place: TWIN if place.asked.exact else BEFORE,
    "ended at once": _ended,
    "refusals over intact knowledge": _refusal,
    "scaled to .3": lambda plant, place: Spoken((0.7, 0.3)),
    "uniform": _uniform,
    "burnt out": _burnt,
    EVERYWHERE: _burnt,
    "swapped answers": _swapped,
}
