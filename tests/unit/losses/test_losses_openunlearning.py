"""OpenUnlearning's losses written once more, position by position, on a tiny model's dense logits: the package's versions compute them, and so do
ours, reduced in the same way, wherever that code does what it says."""

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from tiny_models import tiny_llama

from peft_unlearn.losses import ceu, dpo, ga, hidden_distance, logit_margin, nll, npo, rmu, satimp, simnpo, undial, wga
from peft_unlearn.losses.rmu import direction
from peft_unlearn.model.logprobs import kl
from peft_unlearn.util.registry import OPENUNLEARNING

V = 128  # more than 100: their UNDIAL takes -100 for an index
FORGET = [(5, 6), (3, 1), (2, 4), (7, 2)]  # tokens of prompt and answer in each row
ALTERNATE = [(5, 2), (3, 3), (2, 1), (7, 5)]
EQUAL = [(2, 4), (5, 4), (3, 4), (1, 4)]


@cache
def model(seed):
    """Of certain opinions: with the ordinary scale of a head no token would be likely, and SatImp nothing but rounding."""
    llama = tiny_llama(seed, vocab=V)
    llama.lm_head.weight.data *= 4
    return llama


def batch(lengths, seed):
    """Right-padded ids, attention and unshifted labels; every second token is the one that the policy expects."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, V, (len(lengths), max(map(sum, lengths))), generator=generator)
    for t in range(1, ids.shape[1], 2):
        ids[:, t] = model(0)(input_ids=ids).logits[:, t - 1].argmax(-1)
    labels, attention = ids.clone(), torch.ones_like(ids)
    for i, (prompt, answer) in enumerate(lengths):
        labels[i, :prompt] = labels[i, prompt + answer :] = -100
        ids[i, prompt + answer :] = attention[i, prompt + answer :] = 0
    return ids, attention, labels


@torch.no_grad()
def dense(lengths=FORGET, padding=0):
    """What a policy and a reference say of the forget rows and of the alternates, in fp64."""
    given = {}
    for prefix, rows, seed in (("", lengths, 0), ("alt_", ALTERNATE, 1)):
        ids, attention, labels = (F.pad(x, (0, padding), value=v) for x, v in zip(batch(rows, seed), (0, 0, -100), strict=True))
        given[f"{prefix}labels"] = labels
        for name, model_seed in (("", 0), ("ref_", 1)):
            out = model(model_seed)(input_ids=ids, attention_mask=attention, labels=labels, output_hidden_states=True)
            given[f"{prefix}{name}logits"] = out.logits.double()
            given[f"{prefix}{name}hidden"] = out.hidden_states[1].double()
            given[f"{prefix}{name}loss"] = out.loss.double()
    return given


def answers(given, prefix="", ref=""):
    """Log-probabilities of each row's answer tokens, one position at a time."""
    rows = []
    for logits, labels in zip(given[f"{prefix}{ref}logits"], given[f"{prefix}labels"].tolist(), strict=True):
        rows.append([math.log(torch.softmax(logits[t - 1], 0)[y]) for t, y in enumerate(labels) if t > 0 and y != -100])
    return rows


def mean(numbers):
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


def tokens(given):
    return [x for row in answers(given) for x in row]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def log_ratios(given, prefix=""):
    pairs = zip(answers(given, prefix), answers(given, prefix, "ref_"), strict=True)
    return [sum(here) - sum(there) for here, there in pairs]


def their_npo(given, beta=0.1):
    return mean(-2 / beta * math.log(sigmoid(-beta * ratio)) for ratio in log_ratios(given))


def their_dpo(given, beta=0.1):
    pairs = zip(log_ratios(given, "alt_"), log_ratios(given), strict=True)
    return mean(-2 / beta * math.log(sigmoid(beta * (chosen - rejected))) for chosen, rejected in pairs)


def their_simnpo(given, beta=4.5, delta=0.0):
    counts = (given["labels"] != -100).sum(-1).tolist()
    return mean(-2 / beta * math.log(sigmoid(beta * (-sum(row) / n - delta))) for row, n in zip(answers(given), counts, strict=True))


def their_ceu(given, skip=1):
    values = []
    for logits, labels in zip(given["logits"], given["labels"].tolist(), strict=True):
        places = [t for t, y in enumerate(labels) if y != -100][skip:]
        for t in places:
            if t > 0:
                others = torch.cat([logits[t - 1][: labels[t]], logits[t - 1][labels[t] + 1 :]])
                probability = torch.softmax(logits[t - 1], 0)
                values.append(-(torch.softmax(others, 0) * torch.cat([probability[: labels[t]], probability[labels[t] + 1 :]]).log()).sum())
    return mean(values)


def their_undial(given, beta=10.0):
    values = []
    for logits, ref, labels in zip(given["logits"], given["ref_logits"], given["labels"].tolist(), strict=True):
        for t in range(1, len(labels)):
            lowered = ref[t - 1].clone()
            lowered[labels[t]] -= beta  # -100 counts from the end
            values.append(F.cross_entropy(logits[t - 1][None], torch.softmax(lowered, 0)[None]))
    return mean(values)


def their_pdu(given):
    places = (given["labels"] != -100).nonzero().tolist()
    return mean((given["logits"][i, t].max() - given["logits"][i, t].mean()) ** 2 for i, t in places)


def their_kl(given):
    logps, ref = (given[name].log_softmax(-1).flatten(0, 1) for name in ("logits", "ref_logits"))
    return F.kl_div(logps, ref, reduction="batchmean", log_target=True)


def their_activation_loss(hidden, aim, labels):
    sums, counts = [], []
    for h, a, row in zip(hidden, aim, labels.tolist(), strict=True):
        places = [t for t, y in enumerate(row) if y != -100]
        sums.append(sum(((h[t] - a[t]) ** 2).mean() for t in places))
        counts.append(len(places))
    return mean(s / n for s in sums for n in counts)  # every sum by every count


def their_rmu_forget(given, scale=2.0):
    aim = (scale * direction(given["hidden"].shape[-1])).expand_as(given["hidden"])
    return their_activation_loss(given["hidden"], aim, given["labels"])


# name: (positional arguments, OpenUnlearning's loss in plain loops)
PLAIN = {
    "grad_ascent": (("logits", "labels"), lambda given: mean(tokens(given))),
    "nll": (("logits", "labels"), lambda given: -mean(tokens(given))),
    "npo": (("logits", "labels", "ref_logits"), their_npo),
    "simnpo": (("logits", "labels"), their_simnpo),
    "dpo": (("logits", "labels", "ref_logits", "alt_logits", "alt_labels", "alt_ref_logits"), their_dpo),
    "wga": (("logits", "labels"), lambda given: mean(math.exp(x) * x for x in tokens(given))),
    "satimp": (("logits", "labels"), lambda given: mean(math.exp(5 * x) * (1 - math.exp(x)) * x for x in tokens(given))),
    "ceu": (("logits", "labels"), their_ceu),
    "undial": (("logits", "labels", "ref_logits"), their_undial),
    "pdu": (("logits", "labels"), their_pdu),
    "kl_retain": (("logits", "ref_logits"), their_kl),
    "rmu_forget": (("hidden", "labels"), their_rmu_forget),
    "rmu_retain": (
        ("hidden", "labels", "ref_hidden"),
        lambda given: their_activation_loss(given["hidden"], given["ref_hidden"], given["labels"]),
    ),
}


def packaged(name, given, **parameters):
    return OPENUNLEARNING[name](*(given[key] for key in PLAIN[name][0]), **parameters).item()


def at_labels(given, prefix="", ref=""):
    """What our losses read: (B, T) log-probabilities and their mask, (N, V) logits and their targets."""
    targets, logits = given[f"{prefix}labels"][:, 1:], given[f"{prefix}{ref}logits"][:, :-1]
    mask = targets != -100
    logps = logits.log_softmax(-1).gather(-1, targets.clamp_min(0)[..., None])[..., 0]
    return logps, mask, logits[mask], targets[mask]


def ours(given):
    """Our losses, reduced as theirs: over all tokens, or over all sequences."""
    logps, mask, logits, targets = at_labels(given)
    ref, _, ref_logits, _ = at_labels(given, ref="ref_")
    alt, alt_mask, _, _ = at_labels(given, "alt_")
    alt_ref, _, _, _ = at_labels(given, "alt_", "ref_")
    later = mask & (mask.cumsum(-1) > 1)  # but each row's first token
    standing = given["labels"] != -100
    losses = {
        "grad_ascent": ga(logps[mask]),
        "nll": nll(logps[mask]),
        "npo": npo(logps, ref, mask, beta=0.1),
        "simnpo": simnpo(logps, mask, beta=4.5, gamma=0.0),
        "dpo": dpo(logps, ref, mask, alt, alt_ref, alt_mask, beta=0.1),
        "wga": wga(logps[mask], beta=1.0),
        "satimp": satimp(logps[mask], beta1=5.0, beta2=1.0),
        "ceu": ceu(logits[later[mask]], targets[later[mask]]),
        "undial": undial(logits, targets, ref_logits, beta=10.0),
        "pdu": logit_margin(logits),
        "kl_retain": kl(logits, ref_logits),
        "rmu_forget": rmu(given["hidden"][standing], scale=2.0),
        "rmu_retain": hidden_distance(given["hidden"][standing], given["ref_hidden"][standing]),
    }
    return {name: loss.mean().item() for name, loss in losses.items()}


@pytest.fixture(scope="module")
def rows():
    return dense()


@pytest.fixture(scope="module")
def raw():
    """A text whose first token is a label, as where there is no prompt."""
    return {key: value[:1, :6] for key, value in dense([(0, 6), *FORGET[1:]]).items() if value.ndim}


@pytest.mark.parametrize("name", OPENUNLEARNING)
def test_the_packages_versions_compute_what_their_code_does(rows, raw, name):
    assert packaged(name, rows) == pytest.approx(float(PLAIN[name][1](rows)), rel=1e-9)
    assert packaged(name, raw) == pytest.approx(float(PLAIN[name][1](raw)), rel=1e-9)


@pytest.mark.parametrize("name", ["grad_ascent", "nll", "npo", "simnpo", "dpo", "wga", "satimp", "ceu"])
def test_ours_are_theirs_under_their_reduction(rows, name):
    assert ours(rows)[name] == pytest.approx(float(PLAIN[name][1](rows)), rel=1e-5)


def test_graddiff_is_ascent_on_one_batch_and_descent_on_the_other(rows):
    retain = dense(ALTERNATE)
    theirs = -0.3 * rows["loss"].item() + 2.0 * retain["loss"].item()  # as Transformers itself computes it
    assert 0.3 * packaged("grad_ascent", rows) + 2.0 * packaged("nll", retain) == pytest.approx(theirs, rel=1e-5)
    assert 0.3 * ours(rows)["grad_ascent"] + 2.0 * ours(retain)["nll"] == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize(("name", "parameters"), [("npo", {"beta": 0.5}), ("simnpo", {"beta": 2.0, "delta": 0.7}), ("ceu", {"skip": 0})])
def test_their_parameters_mean_what_they_mean_there(rows, name, parameters):
    theirs = {"npo": their_npo, "simnpo": their_simnpo, "ceu": their_ceu}[name]
    assert packaged(name, rows, **parameters) == pytest.approx(float(theirs(rows, **parameters)), rel=1e-9)


def test_the_margin_of_simnpo_is_beta_times_their_delta(rows):
    logps, mask, _, _ = at_labels(rows)
    assert simnpo(logps, mask, beta=2.0, gamma=1.4).mean().item() == pytest.approx(packaged("simnpo", rows, beta=2.0, delta=0.7), rel=1e-9)


def test_ceu_over_every_label_is_theirs_that_skips_none(rows):
    _, _, logits, targets = at_labels(rows)
    assert ceu(logits, targets).mean().item() == pytest.approx(packaged("ceu", rows, skip=0), rel=1e-9)


def test_gradients_of_theirs_are_those_of_ours(rows):
    for name, loss in {"wga": wga, "satimp": satimp, "grad_ascent": ga}.items():
        z = rows["logits"].clone().requires_grad_()
        (theirs,) = torch.autograd.grad(OPENUNLEARNING[name](z, rows["labels"]), z)
        logps, mask, _, _ = at_labels(rows | {"logits": z})
        (here,) = torch.autograd.grad(loss(logps[mask]).mean(), z)
        torch.testing.assert_close(here, theirs)


# ------------------------------------------------------------------------------------------------ where their code has a mistake


def test_padding_changes_their_undial_and_kl_and_nothing_else(rows):
    padded = dense(padding=20)
    for name in OPENUNLEARNING:
        changed = abs(packaged(name, padded) / packaged(name, rows) - 1)
        assert changed > 0.01 if name in ("undial", "kl_retain") else changed < 1e-5, name
    before, after = ours(rows), ours(padded)
    assert after == pytest.approx(before, rel=1e-5)


def test_their_undial_is_ours_where_every_position_is_a_label(raw):
    assert ours(raw)["undial"] == pytest.approx(packaged("undial", raw), rel=1e-9)


def test_their_undial_lowers_a_token_where_there_is_no_label(rows):
    marked = rows | {"ref_logits": rows["ref_logits"].clone()}
    marked["ref_logits"][1, 8:, V - 100] += 10.0  # in the padding: lowered by as much again, it is what the reference said
    plain = -(rows["ref_logits"][1, 9].softmax(0) * rows["logits"][1, 9].log_softmax(0)).sum()
    alone = {key: value[1:2, 9:11] for key, value in marked.items() if key in ("logits", "labels", "ref_logits")}
    assert (alone["labels"] == -100).all()
    assert packaged("undial", alone) == pytest.approx(plain.item(), rel=1e-9)


def test_their_rmu_divides_every_row_by_every_length(rows):
    for name in ("rmu_forget", "rmu_retain"):
        assert abs(packaged(name, rows) / ours(rows)[name] - 1) > 0.1
    equal = dense(EQUAL)
    for name in ("rmu_forget", "rmu_retain"):
        assert packaged(name, equal) == pytest.approx(ours(equal)[name], rel=1e-9)


def test_their_pdu_flattens_one_position_late(rows):
    late = rows | {"logits": rows["logits"].roll(1, 1)}  # the logits that predict a token, where that token stands
    assert packaged("pdu", late) == pytest.approx(ours(rows)["pdu"], rel=1e-9)
    assert packaged("pdu", rows) != pytest.approx(ours(rows)["pdu"], rel=1e-2)


def test_their_simnpo_counts_a_token_that_nobody_predicted(raw):
    logps, mask, _, _ = at_labels(raw)
    assert mask.sum() == 5
    assert packaged("simnpo", raw) == pytest.approx(simnpo(logps * 5 / 6, mask).item(), rel=1e-9)
