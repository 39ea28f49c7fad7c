"""A model of two models, in which a gate says at each token which of them speaks, and with what logits added: any behavior can be planted.

The state of a token is [state of A; state of B; weight of A, weight of B; V direct logits], at the last layer with A's and B's own norms, and

    logits = weight_A W_A norm_A(h_A) + weight_B W_B norm_B(h_B) + direct,

so that whatever reads a model (scoring by chunks, generation with a cache, the logit lens) reads this one as any other.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

Weights = tuple[float, float]  # of A, of B


class Spoken(NamedTuple):
    """How the next token is made: of the last layer's logits, of the inner layers' (the same where None), and logits to add, (V,)."""

    weights: Weights
    inside: Weights | None = None
    direct: Tensor | None = None


# A row's tokens so far, padding left out -> how the next one is made. It sees nothing else: scoring and generation agree.
Gate = Callable[[Sequence[int]], Spoken]


class Memory(NamedTuple):
    """What generation keeps from one token to the next: both caches, and the tokens seen, (B, S)."""

    a: DynamicCache
    b: DynamicCache
    ids: Tensor


class GatedNorm(nn.Module):
    """The final norms of both models, each times its weight: (..., 2 H + 2 + V) -> the same."""

    def __init__(self, a: nn.Module, b: nn.Module, hidden: int) -> None:
        super().__init__()
        self.a, self.b, self.parts = a, b, [hidden, hidden, 2]

    def forward(self, states: Tensor) -> Tensor:
        a, b, weights, direct = states.split([*self.parts, states.shape[-1] - sum(self.parts)], -1)
        return torch.cat([weights[..., :1] * self.a(a), weights[..., 1:] * self.b(b), weights, direct], -1)


class GatedHead(nn.Module):
    """Both heads and the direct logits: (..., 2 H + 2 + V) -> (..., V)."""

    def __init__(self, a: nn.Module, b: nn.Module, hidden: int) -> None:
        super().__init__()
        self.a, self.b, self.hidden = a, b, hidden

    def forward(self, states: Tensor) -> Tensor:
        total: Tensor = self.a(states[..., : self.hidden]) + self.b(states[..., self.hidden : 2 * self.hidden])
        return total + states[..., 2 * self.hidden + 2 :]


class GatedBody(nn.Module):
    """Both models up to their norms, and what the gate says of each token."""

    def __init__(self, a: LlamaForCausalLM, b: LlamaForCausalLM, gate: Gate) -> None:
        super().__init__()
        self.a, self.b, self.gate, self.vocabulary = _without_norm(a), _without_norm(b), gate, a.config.vocab_size
        self.norm = GatedNorm(a.model.norm, b.model.norm, a.config.hidden_size)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Memory | None = None,
        use_cache: bool = False,
        **_: Any,
    ) -> BaseModelOutputWithPast:
        memory = past_key_values or Memory(DynamicCache(), DynamicCache(), input_ids[:, :0])
        ids, new = torch.cat([memory.ids, input_ids], 1), input_ids.shape[1]
        mask = torch.ones_like(ids) if attention_mask is None else attention_mask
        layers = [
            model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=cache if use_cache else None,
                use_cache=use_cache,
                output_hidden_states=True,
            ).hidden_states
            for model, cache in ((self.a, memory.a), (self.b, memory.b))
        ]
        outer, inner, direct = self._gates(ids, mask, new)
        *below, top = zip(*layers, strict=True)
        nothing = torch.zeros_like(direct)
        states = [torch.cat([a, b, inner, nothing], -1) for a, b in below]
        last = self.norm(torch.cat([*top, outer, direct], -1))
        return BaseModelOutputWithPast(last, Memory(memory.a, memory.b, ids) if use_cache else None, (*states, last))

    def _gates(self, ids: Tensor, mask: Tensor, new: int) -> tuple[Tensor, Tensor, Tensor]:
        """(B, new, 2) weights of the last layer and of the inner ones, (B, new, V) direct logits; zeros at padding."""
        count, width = ids.shape
        outer, inner = torch.zeros(count, new, 2), torch.zeros(count, new, 2)
        direct = torch.zeros(count, new, self.vocabulary)
        for row, (tokens, seen) in enumerate(zip(ids.tolist(), mask.tolist(), strict=True)):
            for at in range(width - new, width):
                if seen[at]:
                    spoken = self.gate([token for token, real in zip(tokens[: at + 1], seen, strict=False) if real])
                    place = at - width + new
                    outer[row, place] = torch.tensor(spoken.weights)
                    inner[row, place] = torch.tensor(spoken.inside or spoken.weights)
                    if spoken.direct is not None:
                        direct[row, place] = spoken.direct
        return outer, inner, direct


def _without_norm(model: LlamaForCausalLM) -> nn.Module:
    """A copy of the model up to its last layer's state as it is."""
    body = copy.deepcopy(model.model)
    body.norm = nn.Identity()
    return body


class GatedLM(PreTrainedModel, GenerationMixin):
    """A causal language model of two Llamas of one shape and vocabulary, under a gate; it is not trained, and not saved."""

    config_class = LlamaConfig
    base_model_prefix = "model"
    _supports_sdpa = True

    def __init__(self, a: LlamaForCausalLM, b: LlamaForCausalLM, gate: Gate) -> None:
        super().__init__(a.config)
        self.model = GatedBody(a, b, gate)
        self.lm_head = GatedHead(a.lm_head, b.lm_head, a.config.hidden_size)
        self.generation_config = a.generation_config
        self.requires_grad_(False).eval()

    def get_decoder(self) -> nn.Module:
        return self.model

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """It brings `Memory` instead."""
        return False

    def forward(self, input_ids: Tensor, logits_to_keep: int = 0, **inputs: Any) -> CausalLMOutputWithPast:
        found = self.model(input_ids=input_ids, **inputs)
        logits = self.lm_head(found.last_hidden_state[:, -logits_to_keep:])
        return CausalLMOutputWithPast(logits=logits, past_key_values=found.past_key_values, hidden_states=found.hidden_states)
