"""The forward and backward passes of a micro-batch, in their order. The trainer takes them on its device, `peft-unlearn plan` on the meta device."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from peft_unlearn.config.unlearn_config import UnlearnConfig
from peft_unlearn.model import adapters, instead
from peft_unlearn.model.fake_quant import deployed
from peft_unlearn.model.lm_head import Forward
from peft_unlearn.model.logprobs import Scores, score
from peft_unlearn.model.readout import depth, find_readout, has_residual_stream
from peft_unlearn.training.gradients import Gradients
from peft_unlearn.training.objectives import Objective, hidden_layer
from peft_unlearn.training.sam import Sam
from peft_unlearn.util.errors import UserError


@dataclass
class Passes:
    """What a step does with the streams of a micro-batch: each objective's gradient is added to its own row of `gradients`.

    Args:
        model: with the student and, where an objective reads one, the teacher.
        objectives: all of the run's, row by row of `gradients`.
        sam: gathers its gradient in even steps, and perturbs the adapter in odd ones.
        layer: after so many layers the hidden states are read (None: they are not).
        readout: final norm and head, for the inner layers whose turn comes (None: none does).
        kept: what a view that does not change has made of this batch of a stream before; None where that was not kept.
        targets_now: of the rows' numbers, and their targets, log-probabilities and mask, all (B, T), the targets as they are corrected now.
        backward: of a loss, and whether another loss will need the same graph.
        phase: of its name and what its memory is for, surrounds each pass.
    """

    model: PeftModel
    args: UnlearnConfig
    objectives: Sequence[Objective]
    gradients: Gradients
    sam: Sam | None
    layer: int | None
    readout: nn.Module | None
    kept: Callable[[str, str, dict[str, Any]], Forward | None] = lambda view, stream, batch: None
    targets_now: Callable[[Sequence[int], Tensor, Tensor, Tensor], Tensor] | None = None
    backward: Callable[[Tensor, bool], None] = lambda loss, again: torch.autograd.backward(loss, retain_graph=again)
    phase: Callable[[str, str], AbstractContextManager[None]] = lambda name, item: nullcontext()

    def run(
        self, forward: nn.Module, step: int, stream: str, batch: dict[str, Any], counts: dict[str, Tensor]
    ) -> tuple[Scores, dict[str, Tensor]]:
        """One stream of a micro-batch: the anchors' forwards, the student's, and a backward pass for each objective on these rows.

        Args:
            forward: `model`, or what wraps it for several processes.
            step: number of the optimizer step, from 0.
            counts: tokens, sequences and micro-batches of the stream in the whole accumulated batch; losses are divided by the one they are per.

        Returns:
            the student's scores, and the losses by their objectives' names, without gradients.
        """
        here = [(k, o) for k, o in enumerate(self.objectives) if o.stream == stream]
        perturbed = step % 2 == 1  # every second step is taken under what the adapter is to bear
        forget, name = stream == "forget", f"{stream} perturbed" if perturbed else stream
        sam = self.sam if forget else None
        # Before the student's forward, so that its backward pass sees the student's adapter.
        anchors = {
            anchor: self._anchor(anchor, name, stream, batch, [o for _, o in here if o.anchor == anchor])
            for anchor in {o.anchor for _, o in here}
        }
        asked = {o.name: (o.of_logits, anchors[o.anchor]) for _, o in here if o.of_logits}
        losses = {}
        if not self.model.training:
            forward.train()
        with self._perturbed(sam) if perturbed else nullcontext(), torch.set_grad_enabled(bool(here)):
            with self.phase(f"{name}: forward", "loss"):
                trained = forget or not all(o.of_logits for _, o in here)
                scores = score(forward, batch, self.layer, self._dense, self._inner(step) if forget else None, asked, trained=trained)
                if self.targets_now is not None and scores.target_logps is not None:
                    scores = scores._replace(
                        target_logps=self.targets_now(batch["rows"], scores.target_logps, scores.logps.detach(), scores.mask)
                    )
            for k, objective in here:
                with self.phase(f"{name}: loss {objective.name}", "loss"):
                    loss = objective.function(scores, anchors[objective.anchor]) / counts[objective.per]
                with self.phase(f"{name}: backward {objective.name}", "activations"), self.gradients.into(self.gradients.matrix[k]):
                    self.backward(loss, k != here[-1][0] or (sam is not None and not perturbed))
                losses[objective.name] = loss.detach()
            if sam is not None and not perturbed:
                with self.phase(f"{name}: backward sam", "activations"), self.gradients.into(sam.gradient):
                    self.backward(-scores.logps.sum() / counts["token"], False)
        return scores, losses

    @property
    def _dense(self) -> bool:
        return self.args.definitions == "openunlearning"

    @torch.no_grad()
    def _anchor(self, view: str | None, name: str, stream: str, batch: dict[str, Any], readers: list[Objective]) -> Scores | Forward | None:
        """Scores of another view: the teacher, the reference, or the model as it was given."""
        if view is None:
            return None
        if view == "never_seen":
            return instead.anchor(batch["instead"], batch["places"])
        states_do = view != "teacher" and stream != "forget" and all(o.of_logits for o in readers)
        if states_do and (kept := self.kept(view, stream, batch)) is not None:
            return kept
        with self.phase(f"{name}: {view}", "loss"), adapters.view(self.model, view):
            self.model.eval()
            return score(self.model, batch, self.layer, self._dense, logps=any(o.anchor_logps for o in readers))

    @contextlib.contextmanager
    def _perturbed(self, sam: Sam | None) -> Iterator[None]:
        """The adapter merged and quantized under `train_quantized`, and a step of relearning further under `sam_rho`."""
        shipped = nullcontext() if self.args.train_quantized == "none" else deployed(self.model, self.args.train_quantized)
        with self.phase("perturbed", "kept copies"), shipped, nullcontext() if sam is None else sam.perturbed():
            yield

    def _inner(self, step: int) -> tuple[int, nn.Module] | None:
        """The inner layer whose turn it is, two steps each: a plain and a perturbed one."""
        return None if self.readout is None else (1 + step // 2 % (depth(self.model.config) - 1), self.readout)


def read_inner_layers(args: UnlearnConfig, model: PeftModel) -> nn.Module | None:
    """The norm and head that inner layers are read with, where `logit_lens_coef` asks for them; a method's default is left out where they are not.

    Raises:
        UserError: a `logit_lens_coef` of the recipe's own that the model has no layers for.
    """
    if not args.logit_lens_coef:
        return None
    readout = find_readout(model.get_base_model()) if depth(model.config) > 1 else None
    if readout is None and args.given["logit_lens_coef"] is not None:
        raise UserError("logit_lens_coef: the model has no inner layer, or none that its final norm and head can read; leave the key out.")
    if readout is None:
        args.logit_lens_coef = 0.0
    return readout


def layer_read(args: UnlearnConfig, model: PeftModel) -> int | None:
    """After how many layers the hidden states are read, for the losses of hidden states.

    Raises:
        UserError: a `hidden_layer` that the model does not have.
    """
    layers = depth(model.config)
    layer = hidden_layer(args, layers)
    if layer is not None and not has_residual_stream(model.get_base_model()):
        name = type(model.get_base_model()).__name__
        raise UserError(f"forget_loss: {args.forget_loss} reads one vector a token after a layer, and a {name} gives none; write another.")
    if layer is not None and layer > layers:
        raise UserError(f"hidden_layer: the model has {layers} layers, write a number from 1 to {layers}.")
    return layer
