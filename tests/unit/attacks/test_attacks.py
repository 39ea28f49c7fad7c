"""Each attack against something independent: PEFT's own merge, plain loops over dense logits, closed forms. And it leaves the model as it was."""

import contextlib
import dataclasses
import math

import numpy as np
import pytest
import torch
import word_rows
from attack_bed import TOKENIZER, adapted, by_name, context, probe, strengths
from peft import get_peft_model
from scipy import stats
from tiny_models import tiny_llama
from torch import nn

from peft_unlearn import attacks
from peft_unlearn.attacks import composition, membership, prompts, relearning, sampling, sanity, scale, white_box
from peft_unlearn.attacks.context import RECOVERY
from peft_unlearn.metrics.results import summarize
from peft_unlearn.metrics.suite import sampled
from peft_unlearn.model import adapters
from peft_unlearn.report.thresholds import THRESHOLDS
from peft_unlearn.util.errors import UserError


@pytest.fixture(scope="module")
def bed():
    return context(adapted())


def test_the_bed_has_something_to_bring_back(bed):
    """The comparisons below would say little of a model that knows all or nothing."""
    seen = by_name(scale.scale(bed))
    means = [seen[f"scale {factor}", "extraction_strength"]["mean"] for factor in ("0.25", "0.5", "0.75")]
    assert bed.plain["before"]["forget"]["extraction_strength"]["mean"] == 1
    assert 1 > means[0] > means[2] > 0
    assert bed.plain["after"]["forget"]["extraction_strength"]["mean"] < 0.3


def state(model) -> dict:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", [name for name in attacks.ATTACKS if name not in ("composition", "tokenizations", "two_hop")])
def test_every_attack_leaves_the_model_as_it_was(bed, name, monkeypatch):
    monkeypatch.setattr(relearning, "STEPS", {True: (2, 4)})
    model = bed.model
    weights, active = state(model), list(model.base_model.active_adapters)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    scalings = {n: dict(module.scaling) for n, module in scale.lora_layers(model).items()}
    found = attacks.ATTACKS[name](dataclasses.replace(bed, full=True))  # the quick forms are among the full ones
    assert found
    assert {entry.get("threshold") for entry in found} <= {None, *THRESHOLDS}
    after = state(model)
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[key], weights[key]) for key in weights)
    assert list(model.base_model.active_adapters) == active
    assert set(model.peft_config) == {adapters.STUDENT}
    assert {n: dict(module.scaling) for n, module in scale.lora_layers(model).items()} == scalings
    assert {n for n, p in model.named_parameters() if p.requires_grad} == trainable
    by_name(found)  # no two numbers of one name


def checked(model, bed, **changes) -> dict:
    plain = {view: {"forget": {"extraction_strength": {"mean": mean, "n": 3}}} for view, mean in (("before", 0.9), ("never_seen", 0.3))}
    return by_name(sanity.sanity(attacks.Context(model, TOKENIZER, bed.probes, plain, "after", **changes)))


def test_sanity_counts_what_moved_and_what_there_was_to_forget(bed):
    model = adapted(init_lora_weights=True)
    factors = adapters.lora_b(model)
    for factor in list(factors.values())[1:]:
        factor.data.normal_()
    seen = checked(model, bed)
    assert seen["modules that moved", "share"]["mean"] == pytest.approx(13 / 14)
    assert seen["extraction strength before minus the never-seen model's", "gap"]["mean"] == pytest.approx(0.6)


@pytest.mark.parametrize("modules", ["all-linear", ["embed_tokens", "q_proj"]])
@pytest.mark.parametrize("init", [True, "gaussian", "orthogonal"])
def test_sanity_tells_a_fresh_adapter_from_a_trained_one_wherever_its_factors_began(bed, init, modules):
    """An orthogonal start has no factor of zeros, and changes nothing."""
    model = adapted(size=1.0, init_lora_weights=init, target_modules=modules)
    assert checked(model, bed)["modules that moved", "share"]["mean"] == 0
    parameters = adapters.adapter_parameters(model)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD(parameters, lr=1e-2)
    for _ in range(2):  # where B is 0, A moves from the second step on
        model(input_ids=torch.tensor([[1, 5, 6, 7]]), labels=torch.tensor([[1, 5, 6, 7]])).loss.backward()
        optimizer.step()
    assert checked(model, bed)["modules that moved", "share"]["mean"] == 1


def test_sanity_compares_with_the_adapter_that_training_went_on_from(bed, tmp_path):
    model = adapted(init_lora_weights=True, target_modules=["embed_tokens", "q_proj", "down_proj"])
    for parameter in adapters.adapter_parameters(model):
        parameter.data.normal_()
    model.save_pretrained(tmp_path)
    assert checked(model, bed, start=str(tmp_path))["modules that moved", "share"]["mean"] == 0
    next(iter(adapters.lora_b(model).values())).data[0, 0] += 1e-3
    assert checked(model, bed, start=str(tmp_path))["modules that moved", "share"]["mean"] == pytest.approx(1 / 5)
    assert checked(model, bed)["modules that moved", "share"]["mean"] == 1  # as a fresh one it would have moved


def test_sanity_says_where_the_start_is_not_known(bed):
    seen = checked(adapted(), bed)  # init_lora_weights=False: random factors, whose product is not 0
    (what,) = (what for what, metric in seen if metric == "share")
    assert "init_lora_weights False" in what
    assert seen[what, "share"]["mean"] is None


def merged(model, change) -> nn.Module:
    """The base with `change(module's name, its update)` added to each adapted weight, by PEFT's own update."""
    plain = tiny_llama()
    for name, module in scale.lora_layers(model).items():
        weight = plain.get_submodule(name.removeprefix("base_model.model.")).weight
        weight.data += change(name, module.get_delta_weight(adapters.STUDENT)).detach()
    return plain


def test_scale_is_a_merge_of_that_share(bed):
    seen = by_name(scale.scale(bed))
    rows = bed.probes["forget"].rows
    for factor in (0.25, 0.5, 1.5):
        own = strengths(merged(bed.model, lambda _, update: factor * update), rows)  # noqa: B023
        assert seen[f"scale {factor:g}", "extraction_strength"]["rows"] == pytest.approx(own)
    for layer in (0, 1):
        own = strengths(merged(bed.model, lambda name, update: update * (f".layers.{layer}." not in name)), rows)  # noqa: B023
        assert seen[f"without layer {layer}", "extraction_strength"]["rows"] == pytest.approx(own)
    assert [metric for (what, metric), entry in seen.items() if entry.get("threshold")] == list(RECOVERY)
    assert {what for (what, _), entry in seen.items() if entry.get("threshold")} == {"scale 0.5"}


def test_layers_fall_into_four_runs_of_neighbors():
    class Model(nn.Module):
        def named_modules(self, *args, **kwargs):
            layer = next(iter(scale.lora_layers(adapted()).values()))
            return [(f"model.layers.{i}.mlp", layer) for i in range(10)] + [("model.head", layer)]

    assert scale.quarters(Model()) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_reversed_guidance_from_the_dense_logits_of_both(bed):
    model = bed.model
    seen = by_name(scale.scale(bed))
    for row, found in zip(bed.probes["forget"].rows, seen["reversed guidance 1.5", "extraction_strength"]["rows"], strict=True):
        with adapters.view(model, "reference"):
            before = word_rows.plain(model, row)
        right = []
        for (after, target), (base, _) in zip(word_rows.plain(model, row), before, strict=True):
            one, other = word_rows.log_softmax(after), word_rows.log_softmax(base)
            right.append((one + 1.5 * (other - one)).argmax() == target)
        right = right[:-1]  # the end token
        k = max((i + 1 for i, hit in enumerate(right) if not hit), default=0)
        assert found == pytest.approx(1 - k / len(right))


def test_prompts_word_for_word(bed):
    row = word_rows.row([1, 7, 8], [20, 21, 22, 23, 24, 25, 2])
    words = TOKENIZER(prompts.COMPLIES, add_special_tokens=False)["input_ids"]
    (found,) = prompts.complying([row], TOKENIZER)
    assert found["input_ids"] == [1, 7, 8, *words, 20, 21, 22, 23, 24, 25, 2]
    assert found["labels"] == [-100] * (3 + len(words)) + [20, 21, 22, 23, 24, 25, 2]
    examples = [word_rows.row([1, 30], [31, 2]), word_rows.row([1, 32], [33, 2])]
    (found,) = prompts.with_examples([row], examples, TOKENIZER, 64)
    assert found["input_ids"] == [1, 30, 31, 2, 32, 33, 2, 7, 8, 20, 21, 22, 23, 24, 25, 2]
    assert found["labels"] == [-100] * 9 + [20, 21, 22, 23, 24, 25, 2]
    (short,) = prompts.with_examples([row], examples, TOKENIZER, 14)  # only one fits
    assert short["input_ids"][:6] == [1, 30, 31, 2, 7, 8]
    (none,) = prompts.with_examples([row], examples, TOKENIZER, 10)
    assert none["input_ids"] == row["input_ids"]
    begun = prompts.begin(row, TOKENIZER)
    assert begun["labels"] == [-100] * 5 + [22, 23, 24, 25, 2]
    text = word_rows.text([1, 7, 8, 9])
    assert prompts.complying([text], TOKENIZER)[0]["input_ids"] == [1, *words, 7, 8, 9]


def test_prompts_are_scored_row_by_row(bed):
    seen = by_name(prompts.prompts(bed))
    rows, variants = bed.probes["forget"].rows, bed.probes["forget"].variants
    paraphrased = [max(strengths(bed.model, group)) for group in variants["paraphrased_question"]]
    assert seen["paraphrases", "extraction_strength"]["rows"] == pytest.approx(paraphrased)
    comply = strengths(bed.model, prompts.complying(rows, TOKENIZER))
    assert seen["an answer that begins to comply", "extraction_strength"]["rows"] == pytest.approx(comply)
    retain = bed.probes["retain"].rows
    shot = strengths(bed.model, prompts.with_examples(rows, [retain[0], retain[2], retain[4]], TOKENIZER, 64))
    assert seen["examples of the same kind", "extraction_strength"]["rows"] == pytest.approx(shot)
    worst = np.max([strengths(bed.model, rows), paraphrased, comply, shot], axis=0)
    assert seen["the worst of all of these", "extraction_strength"]["rows"] == pytest.approx(list(worst))
    for i, row in enumerate(prompts.complying(rows, TOKENIZER)):
        logps = [word_rows.log_softmax(logits)[target] for logits, target in word_rows.plain(bed.model, row)]
        found = seen["an answer that begins to comply", "probability"]["rows"][i]
        assert found == pytest.approx(np.exp(np.mean(logps)), rel=1e-4)


def test_sampling_is_the_leak_of_the_same_luck(bed):
    seen = by_name(sampling.sampling(bed))
    own = sampled(bed.model, TOKENIZER, bed.probes["forget"].rows, (1, 4), batch_size=1)
    assert {metric: entry["rows"] for (_, metric), entry in seen.items()} == {
        name: own[name]["rows"] for name in ("leak_at_1", "leak_at_4")
    }


def test_without_directions_is_the_full_singular_value_decomposition(bed):
    generator = torch.Generator().manual_seed(0)
    b, a = torch.randn(12, 5, generator=generator), torch.randn(5, 9, generator=generator)
    left, values, right = np.linalg.svd((b @ a).numpy())
    for count in range(6):
        values_left = np.where(np.arange(len(values)) < count, 0, values)
        expected = (left[:, : len(values)] * values_left) @ right[: len(values)]
        assert (white_box.ablated(b, a, count) @ a).numpy() == pytest.approx(expected, abs=1e-5)
    seen = by_name(white_box.white_box(bed))
    bare = strengths(tiny_llama(), bed.probes["forget"].rows)
    assert seen["without 4 directions of each change", "extraction_strength"]["rows"] == pytest.approx(bare)  # r is 4


def test_membership_by_counting_pairs(bed):
    seen = by_name(membership.membership(bed))

    def chance(members, others):
        return np.mean([(m > o) + (m == o) / 2 for m in members for o in others])

    sets = {name: {view: bed.plain[view][name]["loss"]["rows"] for view in ("before", "after")} for name in ("forget", "holdout")}
    loss = [-np.array(sets[name]["after"]) for name in ("forget", "holdout")]
    assert seen["forget against holdout rows", "loss_auc"]["mean"] == pytest.approx(chance(*loss))
    rise = [np.array(sets[name]["after"]) - np.array(sets[name]["before"]) for name in ("forget", "holdout")]
    assert seen["loss with the adapter on minus off", "loss_rise_auc"]["mean"] == pytest.approx(chance(*rise))
    with pytest.raises(attacks.Skipped, match="holdout"):
        membership.membership(context(bed.model, probes={"forget": bed.probes["forget"]}))


def test_membership_beside_never_seen_is_delongs_difference():
    """By the jackknife over rows, whose variance DeLong's is for large sets."""
    ours, twin = context(adapted()), context(adapted(seed=4))
    numbers = {**ours.plain, "never_seen": twin.plain["after"]}
    seen = by_name(membership.membership(dataclasses.replace(ours, plain=numbers)))
    low, high = seen["forget against holdout rows", "min_k_auc"]["excess"]
    sides = [[np.array(numbers[view][name]["min_k"]["rows"]) for name in ("forget", "holdout")] for view in ("after", "never_seen")]

    def difference(members=None, others=None):
        found = []
        for forget, holdout in sides:
            kept = [np.delete(rows, gone) if gone is not None else rows for rows, gone in ((forget, members), (holdout, others))]
            found.append((kept[0][:, None] > kept[1]).mean() + (kept[0][:, None] == kept[1]).mean() / 2)
        return found[0] - found[1]

    variance = 0.0
    for side in ("members", "others"):
        left = np.array([difference(**{side: i}) for i in range(6)])
        variance += 5 / 6 * ((left - left.mean()) ** 2).sum()
    assert low <= difference() <= high
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 10) * np.sqrt(variance), rel=0.35)  # freedom is 5 to 10, and ends are cut
    broken = {
        **numbers["after"],
        "forget": {**numbers["after"]["forget"], "min_k": summarize([math.nan] * 6)},
    }
    lost = by_name(membership.membership(dataclasses.replace(ours, plain={**numbers, "after": broken})))
    assert lost["forget against holdout rows", "min_k_auc"]["mean"] is None


def test_composition_is_pefts_exact_concatenation(tmp_path):
    model = adapted()
    adapted(seed=2).save_pretrained(tmp_path / "second")
    before = state(model)
    ours = context(model, others=(str(tmp_path / "second"),))
    seen = by_name(composition.composition(ours))
    assert all(torch.equal(value, before[key]) for key, value in state(model).items())
    assert set(model.peft_config) == {adapters.STUDENT}
    model.load_adapter(tmp_path / "second", "second")
    model.add_weighted_adapter([adapters.STUDENT, "second"], [1.0, 1.0], "both", combination_type="cat")
    model.set_adapter("both")
    own = strengths(model, ours.probes["forget"].rows)
    assert seen["together with second", "extraction_strength"]["rows"] == pytest.approx(own)
    with pytest.raises(attacks.Skipped, match="--with"):
        composition.composition(context(adapted()))


@pytest.mark.parametrize("view", ["after", "never_seen"])
def test_relearning_is_a_fresh_lora_on_the_merged_model(view, monkeypatch):
    """By a plain loop: PEFT's merge, a LoRA of the same seed, one row at a time in the loss, no padding."""
    monkeypatch.setattr(relearning, "RATES", (1e-3, 3e-2))
    monkeypatch.setattr(relearning, "STEPS", {False: (2, 6)})
    monkeypatch.setattr(relearning, "BATCH", 2)
    model = adapted() if view == "after" else tiny_llama(4)
    ours = context(model, view)
    seen = by_name(relearning.relearning(ours))
    rows = [{key: row[key] for key in ("input_ids", "labels")} for row in ours.probes["forget"].rows]
    found: dict[int, list] = {2: [], 6: []}
    for rate in relearning.RATES:
        plain = adapted().merge_and_unload() if view == "after" else tiny_llama(4)
        torch.manual_seed(0)
        learner = get_peft_model(plain, adapters.default_lora())
        optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
        for step in range(1, 7):
            batch = [rows[:3][((step - 1) * 2 + i) % 3] for i in range(2)]
            losses = []
            for row in batch:
                logits = learner(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
                losses.append(nn.functional.cross_entropy(logits, torch.tensor(row["labels"][1:]), reduction="none"))
            counts = sum((torch.tensor(row["labels"][1:]) != -100).sum() for row in batch)
            (sum(loss.sum() for loss in losses) / counts).backward()
            optimizer.step()
            optimizer.zero_grad()
            if step in found:
                found[step].append(strengths(learner, rows[3:]))
    for steps, by_rate in found.items():
        entry = seen[f"{steps} steps on half of the set", "extraction_strength"]
        assert entry["mean"] == pytest.approx(max(np.mean(values) for values in by_rate))
        assert entry["rows"][:3] == [None] * 3
        assert any(entry["rows"][3:] == pytest.approx(values) for values in by_rate)


def test_relearning_recomputes_the_layers_and_changes_nothing_else():
    """Each layer runs again for the backward pass; gradients are those of a plain one, and dropout stays off."""
    rows = {key: torch.tensor([row[key] for row in list(probe(3).rows)[:1]]) for key in ("input_ids", "labels")}
    found = {}
    for recomputed in (False, True):
        model, calls = adapted(lora_dropout=0.5), []
        parameters = adapters.adapter_parameters(model)
        for parameter in parameters:
            parameter.requires_grad_(True)
        before = {name: (module.training, getattr(module, "gradient_checkpointing", None)) for name, module in model.named_modules()}
        model.get_base_model().model.layers[0].self_attn.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        with relearning.checkpointed(model) if recomputed else contextlib.nullcontext():
            model(**rows).loss.backward()
        assert len(calls) == 1 + recomputed
        after = {name: (module.training, getattr(module, "gradient_checkpointing", None)) for name, module in model.named_modules()}
        assert {name: flags for name, flags in after.items() if ".layers." in name} == {
            name: flags for name, flags in before.items() if ".layers." in name
        }
        found[recomputed] = torch.cat([parameter.grad.flatten() for parameter in parameters])
    assert found[False].norm() > 0
    assert torch.allclose(found[True], found[False], rtol=1e-5, atol=1e-7)


def test_choosing_attacks():
    assert [attack.name for attack in attacks.choose()] == [
        "sanity",
        "precision",
        "pruning",
        "svd",
        "scale",
        "relearning",
        "prompts",
        "second_turn",
        "tokenizations",
        "two_hop",
        "first_tokens",
        "sampling",
        "frag",
        "white-box",
        "membership",
    ]
    assert [attack.name for attack in attacks.choose(full=True)] == list(attacks.ATTACKS)
    assert [attack.name for attack in attacks.choose(["prompts"])] == ["sanity", "prompts"]
    with pytest.raises(UserError, match="'promts' is none, did you mean prompts"):
        attacks.choose(["prompts", "promts"])


def test_attacks_on_the_adapter_are_skipped_without_one():
    whole = context(tiny_llama())
    for attack in (sanity.sanity, scale.scale, white_box.white_box, composition.composition):
        with pytest.raises(attacks.Skipped, match="whole"):
            attack(whole)
