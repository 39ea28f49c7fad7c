"""The unlearning step once more, written independently: no Trainer, no accumulation, no shared forward, no Gram matrix.

Whole batches, `torch.autograd.grad`, one full forward for each objective, explicit vectors, and for teacher and reference models of their own.
Forget losses are in plain_losses.py, one row at a time.
"""

import copy
import math

import numpy as np
import plain_answers
import plain_pace
import torch
import torch.nn.functional as F
from plain_combiners import combine, flat
from plain_losses import SEQUENCE, loss_of_row
from plain_targets import average, corrected, correction, fewest, moved_by

from peft_unlearn.training import checks, early_stop


def batch(rows):
    width = max(len(r["input_ids"]) for r in rows)
    ids = torch.tensor([r["input_ids"] + [0] * (width - len(r["input_ids"])) for r in rows])
    labels = torch.tensor([r["labels"] + [-100] * (width - len(r["labels"])) for r in rows])
    mask = torch.tensor([[1] * len(r["input_ids"]) + [0] * (width - len(r["input_ids"])) for r in rows])
    return ids, mask, labels[:, 1:]


def logits(model, b):
    return model(input_ids=b[0], attention_mask=b[1]).logits[:, :-1].float()


def hidden(model, b, layers):
    """(B, T, H) what layer number `layers` (from 1) hands on."""
    kept = []
    hook = model.base_model.model.model.layers[layers - 1].register_forward_hook(lambda module, inputs, output: kept.append(output))
    logits(model, b)
    hook.remove()
    return (kept[0][0] if isinstance(kept[0], tuple) else kept[0])[:, :-1]


def ce(model, b, reduction="mean"):
    return F.cross_entropy(logits(model, b).transpose(1, 2), b[2], reduction=reduction, ignore_index=-100)


def readings(model, rows, layers):
    """For each row (T, V) logits, (T,) labels and (T, H) hidden states at the T labels."""
    b = batch(rows)
    z, h = logits(model, b), hidden(model, b, layers)
    known = b[2] != -100
    return [(z[i][known[i]], b[2][i][known[i]], h[i][known[i]]) for i in range(len(rows))]


def nlls(model, rows):
    """(T,) of each row, alone and without padding."""
    return [ce(model, b, "none")[b[2] != -100] for b in (batch([row]) for row in rows)]


END = 2  # the token that ends every row


def answers(rows):
    """How many tokens each row's answer has, the one that ends it left out."""
    return [sum(label != -100 for label in row["labels"][1:]) - (row["labels"][-1] == END) for row in rows]


def without(values, place):
    """A row's values without that at `place`, of which there may be none."""
    return [value for n, value in enumerate(values) if n != place]


def min_ks(found, rows, places=None):
    """Of each row, with these `nlls`, the mean of the least likely 40 % of its answer's tokens, without that at its place; a row of nothing
    but its end has none."""
    given = zip(found, answers(rows), places or [None] * len(rows), strict=True)
    found = [without((-nll).tolist()[:answer], place) for nll, answer, place in given]
    return [average(sorted(row)[: fewest(len(row))]) for row in found if row]


def less_likely(model, pairs, seed):
    """By what factor the mean log-probability of the forget rows sinks where their prompts are changed as in training."""
    rows, change = list(pairs.sets["forget"]), pairs.dropout["forget"]
    changed = [change(row, np.random.default_rng([seed, number])) for number, row in enumerate(rows)]
    before, after = (average([average(nll.tolist()) for nll in nlls(model, some)]) for some in (rows, changed))
    return max(1.0, after / before)


def parting(rows, others):
    """The place among each row's labels at which the other answer that is taught for it has another token; None where its answer is one token."""
    found = []
    for row, answer in zip(rows, answers(rows), strict=True):
        own, other = ([label for label in one["labels"] if label != -100] for one in (row, others[row["number"]]))
        place = 0
        while own[place] == other[place]:
            place += 1
        found.append(place if answer > 1 else None)
    return found


def at_most(target, place, logps):
    """A row's targets with that at `place` no more than .3, and no more than the token's own log-probability: what is taught there has the rest."""
    if place is None:
        return target
    return torch.stack([min(t, torch.tensor(math.log(0.3)), logps[n]) if n == place else t for n, t in enumerate(target)])


def away(model, rows, target_logps, places):
    """The mean over all tokens of how far they are from their target_logps."""
    logps = [-nll.detach() for nll in nlls(model, rows)]
    targets = [at_most(*given) for given in zip(target_logps, places, logps, strict=True)]
    return average(
        [abs(now - then) for pair in zip(logps, targets, strict=True) for now, then in zip(*map(torch.Tensor.tolist, pair), strict=True)]
    )


def auc(rows, others):
    """The share of pairs in which one of `rows` is above one of `others`, half of those that are equal."""
    return average([(row > other) + (row == other) / 2 for row in rows for other in others])


def retained(model, pairs):
    """Mean over the retain rows of the geometric mean of their tokens' probabilities."""
    return average([math.exp(-nll.mean().item()) for nll in nlls(model, list(pairs.sets["retain"]))])


def missing_factor(rows, others, target):
    """By how much `rows` must be multiplied for the share `target` of all pairs to be above one of `others`: quotients sorted, and counted down."""
    quotients = sorted(other / row for other in others for row in rows)
    place = (1 - target) * (len(quotients) - 1)
    before = min(int(place), len(quotients) - 2)
    return quotients[before] + (place - before) * (quotients[before + 1] - quotients[before])


def inner(model, layer, row, target_logps, scale):
    """What the final norm and head make of an inner layer, as far as its likeliest tokens are above the highest target_logps, and so on."""
    b, base = batch([row]), model.base_model.model
    known = b[2][0] != -100
    z = base.lm_head(base.model.norm(hidden(model, b, layer)[0][known])).double()
    p = z.softmax(-1).gather(-1, b[2][0][known][:, None]).squeeze(-1)
    away = torch.zeros_like(p)
    for t, target in zip(p.argsort().tolist(), sorted(target_logps.tolist()), strict=True):
        away[t] = max(0.0, p[t].log().item() - target) / scale
    return away * (p.log() - (1.02 - p).log())


def forget_loss(args, model, reference, rows, layers, target_logps, scale, inner_layer=None, places=None):
    """The mean over tokens or sequences of what each row's loss is, less what is forgotten, or weighted by the distance from `target_logps`."""
    name, floor = args.forget_loss, args.forget_floor
    alternates = [row.get("alternate") for row in rows]
    sums = [(None, None)] * len(rows)
    if name == "dpo":
        sums = [(a.sum(), b.sum().detach()) for a, b in zip(nlls(model, alternates), nlls(reference, alternates), strict=True)]
    total = count = 0
    student, anchor = readings(model, rows, layers), readings(reference, rows, layers)
    given = zip(rows, student, anchor, sums, target_logps or [None] * len(rows), places or [None] * len(rows), strict=True)
    for row, (z, y, h), (z0, _, _), (alternate, alternate0), target, place in given:
        losses = loss_of_row(name, z, y, h, z0.detach(), alternate, alternate0, args.forget_loss_args)
        nll = F.cross_entropy(z, y, reduction="none")
        p = torch.exp(-nll.detach())
        count += 1 if name in SEQUENCE else len(y)
        if target is not None:
            target = at_most(target, place, -nll.detach())
            pulls, units = (nll.mean(), (-nll - target).mean()) if name in SEQUENCE else (nll, -nll - target)
            away = units.detach() / scale
            total = total + torch.where(away > 0, away * losses, -away * pulls).sum()
            if args.logit_lens_coef:
                over = inner(model, inner_layer, row, target, scale)
                total = total + args.logit_lens_coef * (over.mean() if name in SEQUENCE else over.sum())
            continue
        row_left = floor and torch.tensor([max(x.item(), floor**2) for x in p]).log().mean().exp() < floor
        if not row_left:
            total = total + (losses if name in SEQUENCE else losses[p >= floor**2].sum())
    return total / count


def divergence(name, model, anchor, b):
    known = b[2] != -100
    z, z0 = logits(model, b)[known], logits(anchor, b)[known].detach()
    if name == "kl":
        return F.kl_div(z.log_softmax(-1), z0.log_softmax(-1), log_target=True, reduction="none").sum(-1).mean()
    p, d = z0.softmax(-1), z - z0
    fisher = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
    return (d.unsqueeze(-2) @ fisher @ d.unsqueeze(-1)).flatten().mean() / 2


def nats_lost(now, before):
    """How many nats each token has lost since before: .05 more than it has, none once it is .1 above where it was, and a parabola between."""
    more = now - before.detach()
    return torch.where(more > 0, more + 0.05, torch.where(more < -0.1, torch.zeros_like(more), (more + 0.1) ** 2 / 0.2))


def taught(model, rows):
    """Cross-entropy of other answers, the mean over tokens; a token of probability .7 needs no more, one below .7 / e all of it."""
    logps = -torch.cat(nlls(model, rows))
    return -(logps * (math.log(0.7) - logps.detach()).clamp(0, 1)).mean()


def instead(model, never_seen, rows, whole, target_logps):
    """Of all other tokens KL(never seen || model), as much of it as a token's target leaves to them; the mean over tokens."""
    found = []
    for row, full, target in zip(rows, whole, target_logps, strict=True):
        (z, y), (z0, y0) = (
            (logits(m, b)[0][b[2][0] != -100], b[2][0][b[2][0] != -100]) for m, b in ((model, batch([row])), (never_seen, batch([full])))
        )
        assert torch.equal(y, y0)
        others = torch.arange(z.shape[-1]) != y[:, None]
        p, q = (x[others].view(len(y), -1).softmax(-1) for x in (z, z0.detach()))
        found.append((1 - target.exp()) * (q * (q / p).log()).sum(-1))
    return torch.cat(found).mean()


def train(model, parameters_of, pairs, args, steps, size, never_seen=None, holdout=None):
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
    layers, depth = args.hidden_layer or 1, student.config.num_hidden_layers
    fresh_rows = list(holdout or [])
    place = min_ks(nlls(never_seen, fresh_rows), fresh_rows) if never_seen and holdout else None
    shift, least, rest = moved_by(min_ks(nlls(reference, fresh_rows), fresh_rows), place) if place else 1.0, 1.0, 1.0
    known_nlls = [nll.detach() for nll in nlls(never_seen, list(pairs.sets["forget"]))] if never_seen else []
    scale = flat(known_nlls).mean() if never_seen else None
    harder = less_likely(never_seen, pairs, args.seed) if never_seen and pairs.dropout else 1.0
    rates, rate, calibrated, multiplier = [], args.learning_rate, 0.0, args.retain_coef
    history, weighed, before_training = [], (0.0, 0.0), retained(reference, pairs)
    awaited = never_seen and "answers" in pairs.sets and args.answers != "natural"  # then a run goes on until they are said
    for step in range(steps):
        scheduled = 1 - step / steps if args.lr_scheduler_type == "linear" else plain_pace.rate(history)
        keep, teach = (plain_pace.weight(miss) for miss in weighed)
        optimizer.param_groups[0]["lr"] = rate * scheduled
        examples = [pairs[n] for n in range(step * size, (step + 1) * size)]
        rows, retain = [e["forget"] for e in examples], batch([e["retain"] for e in examples])
        if never_seen:
            whole = [pairs.sets["forget"][row["number"]] for row in rows]  # of which a prompt may have lost tokens since
            turns = [n // len(pairs.sets["forget"]) + row["number"] for n, row in enumerate(rows, step * size)]
            moved = [shift * (harder if turn % 2 else 1.0) for turn in turns]  # a prompt is changed every second time
            told = zip([known_nlls[row["number"]] for row in rows], answers(whole), moved, strict=True)
            target_logps = [corrected(-nll, answer, factor, least, rest) for nll, answer, factor in told]
        else:
            target_logps = None
        places = parting(rows, pairs.sets["answers"]) if awaited else [None] * len(rows)
        inner_layer = 1 + step // 2 % (depth - 1)
        losses = [(args.forget_coef, forget_loss(args, student, reference, rows, layers, target_logps, scale, inner_layer, places))]
        if args.retain_loss == "nll":
            losses.append((multiplier * keep, ce(student, retain)))
        elif args.retain_loss == "hinge":
            losses.append(
                (multiplier * keep, nats_lost(ce(student, retain, "none"), ce(reference, retain, "none"))[retain[2] != -100].mean())
            )
        elif args.retain_loss == "hidden":
            known = retain[2] != -100
            kept = [hidden(m, retain, layers)[known] for m in (student, reference)]
            losses.append((multiplier * keep, F.mse_loss(kept[0], kept[1].detach())))
        anchors = {"teacher": teacher, "reference": reference}
        if args.retain_kl != "none":
            losses.append((args.kl_coef * keep, divergence(args.divergence, student, anchors[args.retain_kl], retain)))
        if args.holdout_kl != "none":
            fresh = batch([e["holdout"] for e in examples])
            losses.append((args.kl_coef, divergence(args.divergence, student, anchors[args.holdout_kl], fresh)))
        if target_logps and args.answers == "natural" and args.retain_loss != "none":
            losses.append((0.1 * args.answers_coef, instead(student, never_seen, rows, whole, target_logps)))
        if "answers" in examples[0]:
            losses.append((args.answers_coef * teach, taught(student, [e["answers"] for e in examples])))
        grads = [flat(torch.autograd.grad(loss, params, materialize_grads=True)) for _, loss in losses]
        unmoved = [p.detach().clone() for p in params]
        if args.sam_rho and step % 2 == 0:
            lesson = flat(torch.autograd.grad(ce(student, batch(rows)), params))
        elif args.sam_rho:  # where a step that learns the rows before would bring the adapter
            grown = flat([p for name, p in student.named_parameters() if p.requires_grad and "lora_B.default" in name])
            way = -args.sam_rho * grown.norm() * lesson / lesson.norm()
            for p, piece in zip(params, way.split([p.numel() for p in params]), strict=True):
                p.data.add_(piece.view_as(p))
            there = forget_loss(args, student, reference, rows, layers, target_logps, scale, inner_layer, places)
            grads[0] = flat(torch.autograd.grad(there, params))
            if target_logps and args.answers == "natural" and args.retain_loss != "none":
                said = len(losses) - 1 - ("answers" in examples[0])
                grads[said] = flat(torch.autograd.grad(instead(student, never_seen, rows, whole, target_logps), params))
        if target_logps and args.combine == "ngdiff":  # unit vectors, of which forgetting has the root of what is still to go
            losses[0] = (args.forget_coef * (away(student, rows, target_logps, places) / scale.item()) ** 0.5, losses[0][1])
        for p, value in zip(params, unmoved, strict=True):
            p.data.copy_(value)
        g = combine(args.combine, grads, [c for c, _ in losses])
        if args.retain_bound is not None:
            multiplier = max(0.0, multiplier + args.lagrangian_rate * (losses[1][1].item() - args.retain_bound))
        c = min(1.0, args.max_grad_norm / g.norm().item()) if args.max_grad_norm else 1.0
        g = c * g + args.damping * c * (flat(params) - flat(teacher_params)).detach().double()
        for p, piece in zip(params, g.float().split([p.numel() for p in params]), strict=True):
            p.grad = piece.view_as(p).clone()
        before = [p.detach().clone() for p in params]
        optimizer.step()
        with torch.no_grad():
            if args.auto_lr and (step % args.auto_lr_steps == 0 or (not calibrated and step < 10)):
                moved = [(p - w) / scheduled for p, w in zip(params, before, strict=True)]

                def at(x, before=before, moved=moved, retain=retain):
                    for p, w, s in zip(params, before, moved, strict=True):
                        p.copy_(w + x * s)
                    known = retain[2] != -100
                    return -logits(student, retain).log_softmax(-1)[known].gather(-1, retain[2][known][:, None]).double().mean().item()

                rate, share, calibrated = gen(at, rate, args.auto_lr_max, calibrated)
                at(share * scheduled)
            if args.teacher_decay is not None:
                for t, s in zip(teacher_params, params, strict=True):
                    t.copy_(t + (1 - args.teacher_decay) * c * (s - t))
        if never_seen and step % checks.EVERY == 0:
            now_there = min_ks(nlls(student, fresh_rows), fresh_rows) if place else None
            shift = moved_by(now_there, place) if place else 1.0
            counts = answers(pairs.sets["forget"])
            forget = list(pairs.sets["forget"])
            others = list(pairs.sets["answers"]) if awaited else []
            parts = parting([dict(row, number=n) for n, row in enumerate(forget)], others) if awaited else [None] * len(forget)
            found_nlls = (known_nlls, nlls(student, forget))
            target, now = (
                -average([average(without(nll.tolist(), place)) for nll, place in zip(found, parts, strict=True)]) for found in found_nlls
            )
            target, (there, here) = target * shift, (min_ks(found, forget, parts) for found in found_nlls)
            missing = average(there) * shift / average(here)
            beside = (1 - 1 / missing) / early_stop.TOLERANCE_MIN_K
            if place:
                told = auc(there, place)
                there_now = [row / min(1, shift) for row in now_there]  # where that shift would have them
                missing, beside = missing_factor(here, there_now, told), (auc(here, there_now) - told) / early_stop.TOLERANCE_AUC
            near = early_stop.APPROACH <= now / target <= 1 / early_stop.APPROACH
            lost = (before_training - retained(student, pairs)) / early_stop.RETAIN_LOSS
            gone = [
                found * last > 0 and abs(found) < early_stop.SHRINKS * abs(last)  # a miss that goes away by itself is not corrected
                for found, last in zip(
                    ((1 - now / target) / early_stop.TOLERANCE, beside), history[-1][:2] if history else (0, 0), strict=True
                )
            ]
            read = {name: readings(student, rows, 1) if rows else [] for name, rows in (("others", others), ("holdout", fresh_rows))}
            lengths = counts, answers(fresh_rows)
            lacking = plain_answers.unsaid(read["others"], forget) / early_stop.TOLERANCE_ANSWERS if awaited else 0.0
            if "answers" in pairs.sets:
                said = readings(student, forget, 1), read["holdout"], lengths, forget, pairs.sets["answers"]
                lacking = max(lacking, plain_answers.recited(*said) / early_stop.TOLERANCE_RECITED)
            weighed = lost, lacking if near else 0.0
            history.append(((1 - now / target) / early_stop.TOLERANCE, beside, lost, near, lacking))
            if near:
                texts = [answer - (place is not None and place < answer) for answer, place in zip(counts, parts, strict=True)]
                ends = [
                    1 - (place is not None and place >= answer) for answer, place in zip(counts, parts, strict=True)
                ]  # every row of these ends
                shares = [fewest(text) / (text + end) for text, end in zip(texts, ends, strict=True) if text]
                part = average(shares) * average(here)
                wanted = (target - missing * part) / (now - part)
                least, rest = correction(least, 1.0 if gone[1] else missing), correction(rest, 1.0 if gone[0] else wanted)
                off = history[-1][0]
                if (off < -1 and least > 1) or (off > 1 and least < 1):  # it pushes on where too much, or too little, is forgotten
                    least = least**early_stop.FADES
        rates.append(rate * scheduled)
    if args.negate:
        for name, p in student.named_parameters():
            if "lora_B" in name:
                p.data = -p.data
    return student, teacher, rates


def gen(at, lr, maximum, calibrated):
    """GeN with the guards of docs/concepts/automatic-learning-rate.md, from three losses a probe.

    Returns (rate, share of the step kept, calibrated).
    """

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
