"""Every forget loss once more, of one row, from docs/concepts/forget-losses.md's table: logits (T, V), labels (T,), hidden states (T, H)."""

import math

import torch
import torch.nn.functional as F

SEQUENCE = ("npo", "simnpo", "dpo")  # one number for the whole row; the others give (T,)


def loss_of_row(name, z, y, h, z0, alternate, alternate0, args):
    """`z0` are the reference's logits; `alternate` and `alternate0` the summed NLL of the alternate answer under student and reference."""
    nll, nll0 = (F.cross_entropy(logits, y, reduction="none") for logits in (z, z0))
    p = torch.exp(-nll)
    true = F.one_hot(y, z.shape[-1])
    if name == "ga":
        return -nll
    if name == "nll":
        return nll
    if name == "nlul":
        return -torch.log(1 + args["tol"] - p)
    if name == "log_odds":
        return torch.log(p / (1 + args.get("tol", 0.02) - p))
    if name == "uce":
        return -torch.log(1 - p / 2)
    if name == "npo":
        return -2 / args["beta"] * F.logsigmoid(args["beta"] * (nll.sum() - nll0.sum()))
    if name == "simnpo":
        return -2 / args["beta"] * F.logsigmoid(args["beta"] * nll.mean() - args.get("gamma", 0.0))
    if name == "dpo":
        return -2 / args["beta"] * F.logsigmoid(args["beta"] * ((alternate0 - alternate) - (nll0.sum() - nll.sum())))
    if name == "ihl":
        return 1 + p - (z.softmax(-1) - 2 * true).amax(-1)
    if name == "wga":
        return -((p ** args["beta"]).detach() * nll)
    if name == "satimp":
        return -((p ** args["beta1"] * (1 - p) ** args["beta2"]).detach() * nll)
    if name == "undial":
        return F.cross_entropy(z, (z0 - args["beta"] * true).softmax(-1), reduction="none")
    if name == "ceu":
        return F.cross_entropy(z, z.detach().masked_fill(true.bool(), -math.inf).softmax(-1), reduction="none")
    if name == "logit_margin":
        return (z.max(-1).values - z.sum(-1) / z.shape[-1]) ** 2
    assert name == "rmu"
    shares = torch.tensor([math.modf(i * (1 + math.sqrt(5)) / 2)[0] for i in range(1, h.shape[-1] + 1)])
    target = args["scale"] * shares / math.sqrt(sum(share**2 for share in shares.tolist()))
    return F.mse_loss(h, target.expand_as(h), reduction="none").mean(-1)
