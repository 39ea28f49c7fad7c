"""Two unlearning steps of any base and any LoRA, written out: plain transformers and PEFT forwards with whole logits, formulas, an SGD of its own.

Student, teacher and reference are models of their own. A quantized step runs the base with the merged weights put in as plain linear layers.
"""

import math

import torch
import torch.nn.functional as F
from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from families import FAMILIES, load
from plain_combiners import combine, flat
from plain_loop import average, batch, gen
from plain_losses import SEQUENCE, loss_of_row
from torch import nn
from transformers.pytorch_utils import Conv1D

from peft_unlearn.model.fake_quant import QUANTIZERS  # test_fake_quant.py holds them to bitsandbytes' own layers


def rows_of(model, rows):
    """For each row the (T, V) logits and (T,) labels, and the (T, H) hidden states after each layer, at its T labels."""
    ids, _, labels = batch(rows)
    out = model(input_ids=ids, output_hidden_states=True, use_cache=False)  # what stands on the right of a row, it does not see
    known = [row != -100 for row in labels]
    return [(out.logits[i, :-1][k].float(), labels[i][k], [states[i, :-1][k] for states in out.hidden_states]) for i, k in enumerate(known)]


def nll(model, rows):
    """(T,) of each row."""
    return [F.cross_entropy(z, y, reduction="none") for z, y, _ in rows_of(model, rows)]


def off_target(logps, targets, scale):
    """How far each token is from its target."""
    return torch.tensor([(now - target) / scale for now, target in zip(logps.tolist(), targets.tolist(), strict=True)])


def lowered(targets, place, logps):
    """A row's targets; at `place` another answer is taught, which leaves .3, and a token that has less stays as it is."""
    found = targets.clone()
    if place is not None:
        found[place] = min(targets[place].item(), math.log(0.3), logps[place].item())
    return found


def parting(row, other):
    """How many labels a row and its other answer begin with alike; None where the row has but one and its end."""
    own, said = ([label for label in one["labels"] if label != -100] for one in (row, other))
    return next(n for n, (a, b) in enumerate(zip(own, said, strict=False)) if a != b) if len(own) > 2 else None


def by_rank(logps, targets):
    """The targets in the order of the tokens' log-probabilities."""
    found = dict(zip(sorted(range(len(logps)), key=lambda t: logps[t].item()), sorted(targets.tolist()), strict=True))
    return torch.tensor([found[t] for t in range(len(logps))])


def forget_loss(args, student, reference, rows, targets, scale, lens, places):
    """`targets` are log-probabilities, or None; other answers part from rows at `places`; `lens` makes logits of an inner layer's hidden states."""
    name = args.forget_loss
    alternates = [row["alternate"] for row in rows] if name == "dpo" else None
    other = [nll(student, alternates), nll(reference, alternates)] if alternates else None
    layer = args.hidden_layer or 1
    total = count = 0
    for i, ((z, y, h), (z0, _, _)) in enumerate(zip(rows_of(student, rows), rows_of(reference, rows), strict=True)):
        alternate, alternate0 = (other[0][i].sum(), other[1][i].sum().detach()) if other else (None, None)
        losses = loss_of_row(name, z, y, h[layer], z0.detach(), alternate, alternate0, args.forget_loss_args)
        count += 1 if name in SEQUENCE else len(y)
        if targets is None:
            total = total + losses.sum()
            continue
        logps = -F.cross_entropy(z, y, reduction="none")
        target = lowered(targets[i], places[i], logps)
        away = off_target(logps, target, scale)
        if name in SEQUENCE:
            away, logps = (logps.detach().mean() - target.mean()) / scale, logps.mean()
        total = total + torch.where(away > 0, away * losses, away * logps).sum()
        inner = -F.cross_entropy(lens(h[1]), y, reduction="none")  # of two layers, the first is the only inner one
        over = off_target(inner, by_rank(inner, target), scale).clamp_min(0) * (inner - (1.02 - inner.exp()).log())
        total = total + args.logit_lens_coef * (over.mean() if name in SEQUENCE else over.sum())
    return total / count


def divergence(student, anchor, rows):
    """KL(anchor || student), the mean over all tokens."""
    both = zip(rows_of(student, rows), rows_of(anchor, rows), strict=True)
    return torch.cat([(z0.softmax(-1) * (z0.log_softmax(-1) - z.log_softmax(-1))).sum(-1) for (z, _, _), (z0, _, _) in both]).mean()


def retain_loss(args, student, reference, rows):
    if args.retain_loss == "nll":
        return torch.cat(nll(student, rows)).mean()
    if args.retain_loss == "hinge":  # the slope is 1 where a token is no likelier than it was, 0 where it is .1 nats above
        before, now = torch.cat(nll(reference, rows)).detach(), torch.cat(nll(student, rows))
        slope = ((now.detach() - before + 0.1) / 0.1).clamp(0, 1)
        return (slope * now).mean()
    layer, both = args.hidden_layer or 1, zip(rows_of(student, rows), rows_of(reference, rows), strict=True)
    return torch.cat([(h[layer] - h0[layer].detach()).square().mean(-1) for (_, _, h), (_, _, h0) in both]).mean()


def taught(student, rows):
    """Cross-entropy of other answers, the mean over tokens; a token of probability .7 needs no more, one below .7 / e all of it."""
    losses = torch.cat(nll(student, rows))
    return (losses * (math.log(0.7) + losses.detach()).clamp(0, 1)).mean()


def instead(student, never_seen, rows, targets):
    """KL(never seen || student) over all but the true token, as much of it as the target leaves to them, the mean over all tokens."""
    found = []
    for (z, y, _), (z0, _, _), target in zip(rows_of(student, rows), rows_of(never_seen, rows), targets, strict=True):
        others = ~F.one_hot(y, z.shape[-1]).bool()
        p, q = (x[others].view(len(y), -1).softmax(-1) for x in (z, z0.detach()))
        found.append((1 - target.exp()) * F.kl_div(p.log(), q, reduction="none").sum(-1))
    return torch.cat(found).mean()


def base_weight(layer):
    """(out, in) in fp32, whatever a linear layer holds it in."""
    if isinstance(layer, Linear4bit):
        return dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    if isinstance(layer, Linear8bitLt):
        scales = layer.state.SCB if layer.weight.SCB is None else layer.weight.SCB  # they move with the first forward
        return int8_vectorwise_dequant(layer.weight.data, scales).float()
    return layer.weight.T if isinstance(layer, Conv1D) else layer.weight


def int8_in_training(model, flag):
    """On a CPU, bitsandbytes rounds the inputs of int8 layers in eval mode alone."""
    for module in model.modules():
        if isinstance(module, Linear8bitLt):
            module.training = flag
    return model


def merged_weight(layer, names):
    """W + the change of each adapter: s BA, or of DoRA m V / |V| - W with V = W + s BA and the norm of each row a constant."""
    weight = total = base_weight(layer.base_layer).detach()
    for name in names:
        change = layer.scaling[name] * layer.lora_B[name].weight @ layer.lora_A[name].weight
        if name in layer.lora_magnitude_vector:
            moved = weight + change
            change = layer.lora_magnitude_vector[name].weight[:, None] * moved / moved.detach().norm(dim=1, keepdim=True) - weight
        total = total + change
    return total


class Given(nn.Module):
    """A linear layer with a weight that is made of other parameters."""

    def __init__(self, weight, bias):
        super().__init__()
        self.given = weight, bias

    def forward(self, x):
        return F.linear(x, *self.given)


def shipped(shell, student, names, kind):
    """`shell`, a base of its own, with the student's weights merged and rounded; the gradient goes through as if they were not rounded."""

    def rounded(weight):
        return weight + (QUANTIZERS[kind](weight.detach()) - weight).detach()

    inside, done = student.get_base_model(), []
    head = inside.get_output_embeddings()
    for name, module in list(inside.named_modules()):
        if any(f"{name}.".startswith(above) for above in done):
            continue
        linear = isinstance(getattr(module, "base_layer", module), nn.Linear | Conv1D)
        if module is head or (not linear and (hasattr(module, "lora_A") or hasattr(module, "modules_to_save"))):
            shell.set_submodule(name, module)  # bitsandbytes leaves head, embeddings and the parameters of experts as they are
        elif hasattr(module, "lora_A"):
            shell.set_submodule(name, Given(rounded(merged_weight(module, names)), module.base_layer.bias))
        elif type(module) in (nn.Linear, Conv1D):
            shell.set_submodule(name, Given(rounded(base_weight(module).detach()), module.bias))
        else:
            continue
        done.append(f"{name}.")
    return int8_in_training(shell, True)


def run(family, quantization, args, pairs, student, teacher, reference, trained, names, origin, never_seen=None):
    """Train `student` for two steps; `trained` lists the parameters of it or of `teacher` that a run trains, in one order.

    `origin` has the adapter's parameters by name, as they were when the run was made.
    """
    params, teacher_params = trained(student), trained(teacher) if teacher is not None else []
    inside = student.get_base_model()
    scale = torch.cat(nll(never_seen, list(pairs.sets["forget"]))).mean().item() if never_seen else None
    rate, calibrated, velocity = args.learning_rate, 0.0, None
    for step in range(2):
        examples = [pairs[n] for n in range(step * 2, step * 2 + 2)]
        forget, retain = [e["forget"] for e in examples], [e["retain"] for e in examples]
        targets = [-row.detach() for row in nll(never_seen, forget)] if never_seen else None
        awaited = targets and "answers" in examples[0] and args.answers != "natural"
        places = [parting(row, pairs.sets["answers"][row["number"]]) if awaited else None for row in forget]
        hard = step == 1
        int8_in_training(student, True)
        seen = (
            shipped(load(family, quantization), student, names, args.train_quantized)
            if hard and args.train_quantized != "none"
            else student
        )

        def lens(states):
            return inside.get_output_embeddings()(inside.get_submodule(FAMILIES[family].norm)(states)).float()

        losses = [(args.forget_coef, lambda: forget_loss(args, seen, reference, forget, targets, scale, lens, places))]  # noqa: B023
        if args.retain_loss != "none":
            losses.append((args.retain_coef, lambda: retain_loss(args, seen, reference, retain)))  # noqa: B023
        if args.retain_kl != "none":
            anchor = teacher if args.retain_kl == "teacher" else reference
            losses.append((args.kl_coef, lambda: divergence(seen, anchor, retain)))  # noqa: B023
        if targets and args.answers == "natural" and args.retain_loss != "none":
            losses.append((0.1 * args.answers_coef, lambda: instead(seen, never_seen, forget, targets)))  # noqa: B023
        if "answers" in examples[0]:
            other = [e["answers"] for e in examples]
            losses.append((args.answers_coef, lambda: taught(seen, other)))  # noqa: B023
        grads = [flat(torch.autograd.grad(loss(), params, materialize_grads=True, retain_graph=True)) for _, loss in losses]
        if args.sam_rho and not hard:
            lesson = flat(torch.autograd.grad(torch.cat(nll(student, forget)).mean(), params, materialize_grads=True, retain_graph=True))
        before = [p.detach().clone() for p in params]
        if args.sam_rho and hard:
            zeros = ("lora_B.default", "lora_embedding_A.default")  # the factors that an init leaves at 0
            come = flat([p - origin[name] for name, p in student.named_parameters() if any(zero in name for zero in zeros)]).norm()
            for p, piece in zip(params, (-args.sam_rho * come * lesson / lesson.norm()).split([p.numel() for p in params]), strict=True):
                p.data.add_(piece.view_as(p))
            if args.train_quantized != "none":
                seen = shipped(load(family, quantization), student, names, args.train_quantized)
            for k in (
                0,
                *(
                    [len(losses) - 1 - ("answers" in examples[0])]
                    if targets and args.answers == "natural" and args.retain_loss != "none"
                    else []
                ),
            ):
                grads[k] = flat(torch.autograd.grad(losses[k][1](), params, materialize_grads=True, retain_graph=True))
        coefs = [coef for coef, _ in losses]
        if targets and args.combine == "ngdiff":
            given = zip(nll(seen, forget), targets, places, strict=True)
            away = [off_target(-row, lowered(target, place, -row), 1.0).abs() for row, target, place in given]
            coefs[0] *= (torch.cat(away).mean().item() / scale) ** 0.5
        for p, value in zip(params, before, strict=True):
            p.data.copy_(value)
        g = combine(args.combine, grads, coefs)
        c = min(1.0, args.max_grad_norm / g.norm().item()) if args.max_grad_norm else 1.0
        velocity = c * g if velocity is None else 0.9 * velocity + c * g
        moved = [rate * piece.view_as(p).float() for p, piece in zip(params, velocity.split([p.numel() for p in params]), strict=True)]
        with torch.no_grad():

            def at(share, before=before, moved=moved, retain=retain):
                for p, w, s in zip(params, before, moved, strict=True):
                    p.copy_(w - share * s)
                return average(torch.cat(nll(student, retain)).double().tolist())

            at(1.0)
            int8_in_training(student, False)
            if args.auto_lr:
                rate, share, calibrated = gen(at, rate, args.auto_lr_max, calibrated)
                at(share)
            for t, s in zip(teacher_params, params, strict=bool(teacher_params)):
                t.copy_(t + (1 - args.teacher_decay) * c * (s - t))
    return params, teacher_params
