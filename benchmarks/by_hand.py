"""The step of our three methods as one would write it by hand: no Trainer, no objectives, no Gram matrix, rows in lists.

It has the trainer's mathematics at the methods' defaults, and its economies: logits by chunks of tokens, one forward for the objectives of a batch,
the base's states of a row once.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn

from peft_unlearn import UnlearnTrainer

PROBES = 10  # steps between two probes of NGDiff's learning rate
CHUNK = 1 << 24  # logits at a time


Loss = Callable[..., Tensor]  # logits, (n, V), true tokens and the anchor's states -> (n,)


def chunks(head: nn.Linear, states: Tensor, losses: list[Loss], *given: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Of each loss of a token its values, (N,), and their gradients to the states, (N, H)."""
    size = max(1, CHUNK // head.out_features)
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in losses]
    for parts in zip(states.detach().split(size), *(value.split(size) for value in given), strict=True):
        h = parts[0].requires_grad_()
        logits = head(h).float()
        for loss, values in zip(losses, found, strict=True):
            value = loss(logits, *parts[1:])
            values.append((value.detach(), torch.autograd.grad(value.sum(), h, retain_graph=loss is not losses[-1])[0]))
    return [tuple(map(torch.cat, zip(*values, strict=True))) for values in found]


def logp(logits: Tensor, targets: Tensor, *_: Tensor) -> Tensor:
    return -F.cross_entropy(logits, targets, reduction="none")


FORGET = {
    "mean_teacher": lambda logps: -torch.log(1.02 - logps.exp()),
    "ngdiff": lambda logps: logps,
    "mollm": lambda logps: -torch.log(1 - logps.exp() / 2),
}


class Loop:
    """One of our three methods at its defaults, one step a call for so many `steps`, on rows of one length without prompts."""

    def __init__(self, method: str, model: PeftModel, trainer: UnlearnTrainer, steps: int):
        self.method, self.model = method, model
        self.causal = model.get_base_model()
        self.head = self.causal.lm_head
        self.size = max(1, CHUNK // self.head.out_features)
        self.lr, self.calibrated, self.number = trainer.args.learning_rate, 0.0, 0
        self.params = [p for p in model.parameters() if p.requires_grad]
        for mine, start in zip(self.params, trainer.student, strict=True):
            mine.data.copy_(start)
        self.teacher = [p.detach().clone() for p in self.params] if method == "mean_teacher" else []
        self.kept: dict[tuple[int, ...], Tensor] = {}
        self.optimizer = torch.optim.AdamW(self.params, lr=self.lr, weight_decay=0.0)
        size = trainer.args.per_device_train_batch_size
        pairs = [trainer.train_dataset[n] for n in range(steps * size)]
        rows = [[pair[name]["input_ids"] for pair in pairs] for name in ("forget", "retain")]
        self.batches = iter([[found[n : n + size] for found in rows] for n in range(0, len(pairs), size)])

    def states(self, ids: Tensor) -> Tensor:
        found = self.causal.model(input_ids=ids, use_cache=False)
        return found.last_hidden_state[:, :-1].flatten(0, 1)

    def __call__(self) -> None:
        self.model.train()
        forget, retain = (torch.tensor(rows, device=self.causal.device) for rows in next(self.batches))
        grads = [self.forget(forget), *self.keep(retain)]
        direction = combine(self.method, grads)
        clip = min(1.0, 1.0 / direction.norm().item()) if self.method == "mean_teacher" else 1.0
        direction = (clip * direction).float()
        for p, piece in zip(self.params, direction.split([p.numel() for p in self.params]), strict=True):
            p.grad = piece.view_as(p)
        early = not self.calibrated and self.number < 10
        probed = self.method == "ngdiff" and (self.number % PROBES == 0 or early)
        before = [p.detach().clone() for p in self.params] if probed else []
        self.optimizer.step()
        if probed:
            self.probe(before, retain)
        if self.method == "mean_teacher":
            torch._foreach_lerp_(self.teacher, [p.detach() for p in self.params], 0.005 * clip)
        self.number += 1

    def forget(self, ids: Tensor) -> Tensor:
        states, targets = self.states(ids), ids[:, 1:].flatten()
        ((values, slopes),) = chunks(self.head, states, [logp], targets)
        logps = values.requires_grad_()
        kept = logps.detach().view(len(ids), -1)
        lowest = 2 * math.log(0.02)
        left = (kept >= lowest) & (kept.clamp_min(lowest).mean(-1, keepdim=True).exp() >= 0.02)
        loss = FORGET[self.method](logps)[left.flatten()].sum() * (0.1 if self.method == "mean_teacher" else 1.0) / len(targets)
        (pull,) = torch.autograd.grad(loss, logps)
        return self.gradient(states, pull[:, None] * slopes)

    def keep(self, ids: Tensor) -> list[Tensor]:
        """The retain cross-entropy, the divergence from an anchor, or both, on one forward of the student."""
        targets = ids[:, 1:].flatten()
        if self.method == "ngdiff":
            states = self.states(ids)
            return [self.gradient(states, -chunks(self.head, states, [logp], targets)[0][1] / len(targets))]
        with torch.no_grad():
            anchor = self.anchor(ids)
        states = self.states(ids)

        def kl(logits: Tensor, _: Tensor, theirs: Tensor) -> Tensor:
            with torch.no_grad():
                fixed = self.head(theirs).float().log_softmax(-1)
            return F.kl_div(logits.log_softmax(-1), fixed, log_target=True, reduction="none").sum(-1)

        if self.method == "mean_teacher":
            return [self.gradient(states, chunks(self.head, states, [kl], targets, anchor)[0][1] / len(targets))]
        (_, known), (_, near) = chunks(self.head, states, [logp, kl], targets, anchor)
        return [self.gradient(states, -known / len(targets), again=True), self.gradient(states, near / len(targets))]

    def anchor(self, ids: Tensor) -> Tensor:
        """The states of the teacher, whose weights take the student's place, or of the base."""
        if self.method == "mollm":  # the base never changes
            rows = [tuple(row) for row in ids.tolist()]
            if not all(row in self.kept for row in rows):
                with self.model.disable_adapter():
                    self.kept |= zip(rows, self.states(ids).chunk(len(rows)), strict=True)
            return torch.cat([self.kept[row] for row in rows])
        own = [p.data for p in self.params]
        for p, other in zip(self.params, self.teacher, strict=True):
            p.data = other
        states = self.states(ids)
        for p, data in zip(self.params, own, strict=True):
            p.data = data
        return states

    def gradient(self, states: Tensor, slopes: Tensor, *, again: bool = False) -> Tensor:
        found = torch.autograd.grad(states, self.params, slopes.to(states.dtype), retain_graph=again)
        return torch.cat([g.flatten() for g in found])

    @torch.no_grad()
    def probe(self, before: list[Tensor], ids: Tensor) -> None:
        """GeN: the minimum of a parabola through three losses along the step; the first time, where it agrees with itself."""
        step, targets = [p - w for p, w in zip(self.params, before, strict=True)], ids[:, 1:].flatten()

        def move(share: float) -> None:
            for p, w, s in zip(self.params, before, step, strict=True):
                p.copy_(w + share * s)

        def loss(share: float) -> float:
            move(share)
            parts = (part.split(self.size) for part in (self.states(ids), targets))
            return sum(-logp(self.head(h).float(), y).double().sum() for h, y in zip(*parts, strict=True)).item() / len(targets)

        def minimum(x: float) -> float | None:
            plus, minus = loss(x), loss(-x)
            slope, bend = (plus - minus) / 2, plus - 2 * zero + minus
            return -slope / bend if slope < -1e-6 * zero and bend > 1e-6 * zero else None

        zero, longest = loss(0.0), 1e-2 / self.lr
        if self.calibrated:
            share, found = 1.0, minimum(1.0)
            if found is not None:
                self.lr = min(self.lr * (0.9 + 0.1 * min(max(found, 0.5), 2.0)), 1e-2, 2 * self.calibrated)
        else:
            x = share = min(1.0, longest)
            for _ in range(20):
                found = minimum(x)
                if found is not None and abs(found - 1) <= 0.1:
                    share = min(x * found, longest)
                    self.calibrated = self.lr * share
                    break
                grow = 4.0 if found is None else min(max(found, 0.25), 4.0)
                if grow > 1 and x >= longest:
                    break
                x = min(x * grow, longest)
            self.lr *= share
        move(share)
        self.optimizer.param_groups[0]["lr"] = self.lr


def combine(method: str, grads: list[Tensor]) -> Tensor:
    """One direction of all gradients, in fp64."""
    wide = torch.stack(grads).double()
    if method == "mean_teacher":
        return wide.sum(0)
    norms = wide.norm(dim=1)
    kept = norms > 1e-4 * norms.max()
    units = wide[kept] / norms[kept, None]
    if method == "ngdiff":
        return units.sum(0)
    cosines = (units @ units.T).cpu()
    for cutoff in (1e-2, 1e-12):
        dual = torch.linalg.pinv(cosines, rtol=cutoff, hermitian=True)
        weights = (dual / dual.diagonal().sqrt()[:, None]).mean(0)
        if (cosines @ weights > 0).all():
            break
    direction = weights.to(units) @ units
    return direction * (wide[kept].mean(0).norm() / direction.norm())
