"""The losses of OpenUnlearning's trainers as that code computes them, with what is wrong in it: to set its numbers beside ours.

Unlike those of `peft_unlearn.losses` these are whole: they take dense tensors as a model's forward gives them, padded positions included, and
return the scalar of one batch. Of the positional parameters `logits` is (B, T, V), `labels` (B, T) *unshifted* with -100 outside the answer, and
`hidden` (B, T, H); `ref_` and `alt_` are of the reference and of the alternate answer. A trainer there minimizes
gamma * forget + alpha * retain. With `definitions: openunlearning` a run here minimizes the same: each decorator says of which key of a recipe it is
the value, under our name. It is a mean over each micro-batch, and under accumulation the mean of those over micro-batches and processes: what
Transformers 4.45.1, which that commit asks for, makes of a `compute_loss` that is not told the number of items.

Source: github.com/locuslab/open-unlearning, src/trainer, at d3d7cf9 (2025-12-24). docs/reference/openunlearning-losses.md says where ours differ.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from peft_unlearn.losses.ceu import ceu as ceu_of_tokens
from peft_unlearn.losses.dpo import dpo as dpo_of_sequences
from peft_unlearn.losses.npo import npo as npo_of_sequences
from peft_unlearn.losses.rmu import direction, hidden_distance
from peft_unlearn.losses.satimp import satimp as satimp_of_tokens
from peft_unlearn.losses.undial import soft_cross_entropy
from peft_unlearn.losses.wga import wga as wga_of_tokens
from peft_unlearn.util.registry import openunlearning_loss

IGNORE = -100


def true_logps(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each next token, 0 outside the answer, and where the answer is: (B, T, V), (B, T) -> (B, T - 1), (B, T - 1)."""
    targets = labels[:, 1:]
    mask = targets != IGNORE
    logps = logits[:, :-1].log_softmax(-1).gather(-1, targets.where(mask, 0).unsqueeze(-1)).squeeze(-1)
    return logps.where(mask, 0.0), mask


@openunlearning_loss(forget_loss="nll", retain_loss="nll")
def nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over all answer tokens of the batch: their retain loss "NLL", and the training loss of Transformers."""
    logps, mask = true_logps(logits, labels)
    return -logps[mask].mean()


@openunlearning_loss(forget_loss="ga")
def grad_ascent(logits: Tensor, labels: Tensor) -> Tensor:
    """GradAscent, and the forget half of GradDiff."""
    return -nll(logits, labels)


@openunlearning_loss(forget_loss="npo", ranges={"beta": "above 0"})
def npo(logits: Tensor, labels: Tensor, ref_logits: Tensor, *, beta: float = 0.1) -> Tensor:
    """NPO: log-ratios summed over a row's tokens, mean over rows."""
    logps, mask = true_logps(logits, labels)
    return npo_of_sequences(logps, true_logps(ref_logits, labels)[0], mask, beta=beta).mean()


@openunlearning_loss(forget_loss="simnpo", ranges={"beta": "above 0", "delta": "at least 0"})
def simnpo(logits: Tensor, labels: Tensor, *, beta: float = 4.5, delta: float = 0.0) -> Tensor:
    """SimNPO with the margin beta * delta, mean over rows.

    A row's sum is divided by its labels, not by its predicted tokens: one too many where the first token of a row is a label (raw text).
    """
    mean = -true_logps(logits, labels)[0].sum(-1) / (labels != IGNORE).sum(-1)
    return (-2 / beta * F.logsigmoid(beta * (mean - delta))).mean()


@openunlearning_loss(forget_loss="dpo", ranges={"beta": "above 0"})
def dpo(
    logits: Tensor,
    labels: Tensor,
    ref_logits: Tensor,
    alt_logits: Tensor,
    alt_labels: Tensor,
    alt_ref_logits: Tensor,
    *,
    beta: float = 0.1,
) -> Tensor:
    """DPO, IdkDPO and AltPO: the alternate chosen, the forget answer rejected, 2 / beta before the sigmoid, mean over rows."""
    forget = true_logps(ref_logits, labels)
    alternate = true_logps(alt_ref_logits, alt_labels)
    logps = true_logps(logits, labels)[0], true_logps(alt_logits, alt_labels)[0]
    return dpo_of_sequences(logps[0], *forget, logps[1], *alternate, beta=beta).mean()


@openunlearning_loss(forget_loss="wga", ranges={"beta": "at least 0"})
def wga(logits: Tensor, labels: Tensor, *, beta: float = 1.0) -> Tensor:
    """WGA, mean over all answer tokens of the batch."""
    logps, mask = true_logps(logits, labels)
    return wga_of_tokens(logps[mask], beta=beta).mean()


@openunlearning_loss(forget_loss="satimp", ranges={"beta1": "at least 0", "beta2": "at least 0"})
def satimp(logits: Tensor, labels: Tensor, *, beta1: float = 5.0, beta2: float = 1.0) -> Tensor:
    """SatImp, mean over all answer tokens of the batch."""
    logps, mask = true_logps(logits, labels)
    return satimp_of_tokens(logps[mask], beta1=beta1, beta2=beta2).mean()


@openunlearning_loss(forget_loss="ceu", ranges={"skip": "at least 0"})
def ceu(logits: Tensor, labels: Tensor, *, skip: int = 1) -> Tensor:
    """CEU, mean over the answer tokens of the batch but each row's first `skip`."""
    later = (labels != IGNORE).cumsum(-1) > skip
    labels = labels.where(later, IGNORE)
    mask = labels[:, 1:] != IGNORE
    return ceu_of_tokens(logits[:, :-1][mask], labels[:, 1:][mask]).mean()


@openunlearning_loss(forget_loss="undial", ranges={"beta": "at least 0"})
def undial(logits: Tensor, labels: Tensor, ref_logits: Tensor, *, beta: float = 10.0) -> Tensor:
    """UNDIAL, mean over *all* positions: prompt and padding distil the reference too, and so the loss depends on the padding.

    Where there is no label, -100 is taken for an index, and lowers token V - 100 of the reference.
    """
    targets = labels[:, 1:]
    indices = targets.where(targets >= 0, targets + logits.shape[-1]).unsqueeze(-1)
    target_logits = ref_logits[:, :-1].scatter_add(-1, indices, torch.full_like(indices, -beta, dtype=ref_logits.dtype))
    return soft_cross_entropy(logits[:, :-1], target_logits).mean()


@openunlearning_loss(forget_loss="logit_margin")
def pdu(logits: Tensor, labels: Tensor) -> Tensor:
    """PDU's flattening, mean over the positions where a label *stands*: each answer token's successor is flattened, the first answer token is not."""
    margin = logits.amax(-1) - logits.mean(-1)
    return margin[labels != IGNORE].square().mean()


@openunlearning_loss(retain_kl="reference")
def kl_retain(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """Their retain loss "KL": KL(reference || model), mean over *all* positions, the prompt and the padding included."""
    ref_logps = ref_logits.log_softmax(-1)
    return (ref_logps.exp() * (ref_logps - logits.log_softmax(-1))).sum(-1).mean()


def _over_rows(distances: Tensor, labels: Tensor) -> Tensor:
    """(B, T) distances -> mean over pairs (i, j) of rows of [sum of row i] / [labels of row j]: a (B,) divided by a (B, 1).

    It is the mean over rows of the mean over tokens where all rows have equally many labels, and more or less than that where they have not.
    """
    mask = labels != IGNORE
    return ((distances * mask).sum(-1) / mask.sum(-1, keepdim=True)).mean()


@openunlearning_loss(forget_loss="rmu", ranges={"scale": "at least 0"})
def rmu_forget(hidden: Tensor, labels: Tensor, *, scale: float = 2.0) -> Tensor:
    """RMU on the forget set, at the positions where a label *stands*, over rows as `_over_rows` says.

    Their direction is drawn anew in each run; here it is ours.
    """
    return _over_rows(hidden_distance(hidden, scale * direction(hidden.shape[-1]).to(hidden)), labels)


@openunlearning_loss(retain_loss="hidden")
def rmu_retain(hidden: Tensor, labels: Tensor, ref_hidden: Tensor) -> Tensor:
    """RMU's retain loss "EMBED_DIFF", at the positions where a label *stands*, over rows as `_over_rows` says."""
    return _over_rows(hidden_distance(hidden, ref_hidden), labels)
