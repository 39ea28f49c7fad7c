"""The unlearning step once more, written independently: no Trainer, no accumulation, no shared forward, no Gram matrix.

Whole batches, `torch.autograd.grad`, one full forward for each objective, explicit vectors, and for teacher and reference models of their own.
"""

import copy

import torch
import torch.nn.functional as F


def batch(rows):
    width = max(len(r["input_ids"]) for r in rows)
    ids = torch.tensor([r["input_ids"] + [0] * (width - len(r["input_ids"])) for r in rows])
    labels = torch.tensor([r["labels"] + [-100] * (width - len(r["labels"])) for r in rows])
    mask = torch.tensor([[1] * len(r["input_ids"]) + [0] * (width - len(r["input_ids"])) for r in rows])
    return ids, mask, labels[:, 1:]


def logits(model, b):
    return model(input_ids=b[0], attention_mask=b[1]).logits[:, :-1].float()


def ce(model, b, reduction="mean"):
    return F.cross_entropy(logits(model, b).transpose(1, 2), b[2], reduction=reduction, ignore_index=-100)


def forget_loss(name, model, reference, b, args, floor):
    nll = ce(model, b, "none")
    known = b[2] != -100
    rows = []
    for i in range(len(nll)):
        t = nll[i][known[i]]
        p = torch.exp(-t)
        counted = [max(x.item(), floor**2) for x in p]
        alive = float(torch.tensor(counted).log().mean().exp() >= floor) if floor else 1.0
        here = p.detach() >= floor**2
        if name == "ga":
            rows.append(-t[here].sum() * alive)
        elif name == "nlul":
            rows.append(-torch.log(1 + args["tol"] - p[here]).sum() * alive)
        elif name == "uce":
            rows.append(-torch.log(1 - p[here] / 2).sum() * alive)
        elif name == "npo":
            ref = ce(reference, b, "none")[i][known[i]].detach()
            rows.append(-(2 / args["beta"]) * F.logsigmoid(-args["beta"] * (ref - t).sum()) * alive)
    return sum(rows) / (len(rows) if name == "npo" else known.sum())


def divergence(name, model, anchor, b):
    known = b[2] != -100
    z, z0 = logits(model, b)[known], logits(anchor, b)[known].detach()
    if name == "kl":
        return F.kl_div(z.log_softmax(-1), z0.log_softmax(-1), log_target=True, reduction="none").sum(-1).mean()
    p, d = z0.softmax(-1), z - z0
    fisher = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
    return (d.unsqueeze(-2) @ fisher @ d.unsqueeze(-1)).flatten().mean() / 2


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


def combine(name, grads, coefs):
    grads = [g.double() for g in grads]
    if name == "weighted_sum":
        return sum(c * g for c, g in zip(coefs, grads, strict=True))
    longest = max(g.norm() for g in grads)
    kept = [(c, g) for c, g in zip(coefs, grads, strict=True) if g.norm() > 1e-4 * longest]
    if name == "ngdiff":
        return sum(c * g / g.norm() for c, g in kept)
    total = sum(c for c, _ in kept)
    units = torch.stack([g / g.norm() for _, g in kept])
    for cutoff in (1e-2, 1e-12):
        duals = torch.linalg.pinv(units, rtol=cutoff**0.5).T  # rows: each gradient less its projection on the others, up to length
        d = sum(c / total * dual / dual.norm() for (c, _), dual in zip(kept, duals, strict=True))
        if all(g @ d > 0 for _, g in kept):
            break
    return d * sum(c / total * g for c, g in kept).norm() / d.norm()


def train(model, parameters_of, pairs, args, steps, size):
    """Train a copy of the adapted `model`; `parameters_of(model)` lists its adapter's parameters. Returns (student, teacher, rates)."""
    student, teacher, reference = copy.deepcopy(model), copy.deepcopy(model), copy.deepcopy(model)
    params, teacher_params = parameters_of(student), parameters_of(teacher)
    for p in parameters_of(reference):
        p.data.zero_()
    if args.optim == "sgd":
        optimizer = torch.optim.SGD(params, lr=args.learning_rate, momentum=float(args.optim_args.split("=")[1]))
    else:
        optimizer = torch.optim.AdamW(
            params, lr=args.learning_rate, weight_decay=args.weight_decay, betas=(0.9, 0.999), eps=args.adam_epsilon
        )
    rates, calibrated = [], 0.0
    for step in range(steps):
        examples = [pairs[n] for n in range(step * size, (step + 1) * size)]
        forget, retain = (batch([e[k] for e in examples]) for k in ("forget", "retain"))
        losses = [(args.forget_coef, forget_loss(args.forget_loss, student, reference, forget, args.forget_loss_args, args.forget_floor))]
        if args.retain_loss == "nll":
            losses.append((args.retain_coef, ce(student, retain)))
        if args.retain_kl != "none":
            anchor = {"teacher": teacher, "reference": reference}[args.retain_kl]
            losses.append((args.kl_coef, divergence(args.divergence, student, anchor, retain)))
        grads = [flat(torch.autograd.grad(loss, params)) for _, loss in losses]
        g = combine(args.combine, grads, [c for c, _ in losses])
        c = min(1.0, args.max_grad_norm / g.norm().item()) if args.max_grad_norm else 1.0
        g = c * g + args.damping * c * (flat(params) - flat(teacher_params)).detach().double()
        for p, piece in zip(params, g.float().split([p.numel() for p in params]), strict=True):
            p.grad = piece.view_as(p).clone()
        before = [p.detach().clone() for p in params]
        optimizer.step()
        with torch.no_grad():
            if args.auto_lr and (step % args.auto_lr_steps == 0 or not calibrated):
                moved = [p - w for p, w in zip(params, before, strict=True)]

                def at(x, before=before, moved=moved, retain=retain):
                    for p, w, s in zip(params, before, moved, strict=True):
                        p.copy_(w + x * s)
                    known = retain[2] != -100
                    return -logits(student, retain).log_softmax(-1)[known].gather(-1, retain[2][known][:, None]).double().mean().item()

                lr = optimizer.param_groups[0]["lr"]
                lr, share, calibrated = gen(at, lr, args.auto_lr_max, calibrated)
                at(share)
                optimizer.param_groups[0]["lr"] = lr
            if args.teacher_decay is not None:
                for t, s in zip(teacher_params, params, strict=True):
                    t.copy_(t + (1 - args.teacher_decay) * c * (s - t))
        rates.append(optimizer.param_groups[0]["lr"])
    return student, teacher, rates


def gen(at, lr, maximum, calibrated):
    """GeN with the guards of docs/auto_lr.md, from three losses a probe. Returns (rate, share of the step kept, calibrated)."""

    def minimum(x):
        left, middle, right = at(-x), at(0.0), at(x)
        slope, bend, noise = (right - left) / 2, right + left - 2 * middle, 1e-6 * middle
        return -slope / bend if slope < -noise and bend > noise else None

    if calibrated:
        found = minimum(1.0)
        return (lr if found is None else min(lr * (0.9 + 0.1 * min(max(found, 0.5), 2.0)), maximum, 2 * calibrated)), 1.0, calibrated
    limit = maximum / lr
    x = first = min(1.0, limit)
    for _ in range(20):
        found = minimum(x)
        if found is not None and 0.9 <= found <= 1.1:
            return lr * min(x * found, limit), min(x * found, limit), lr * min(x * found, limit)
        factor = 4.0 if found is None else min(max(found, 0.25), 4.0)
        if factor > 1 and x >= limit:
            break
        x = min(x * factor, limit)
    return lr * first, first, 0.0
