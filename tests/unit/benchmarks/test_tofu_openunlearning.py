"""TOFU by OpenUnlearning's definitions, against a plain recomputation of its rows: the chat template, an end token behind it, dense forwards."""

import json
import math
import zlib

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from test_muse_openunlearning import CITIES, NAMES, answer, close, forced
from tiny_tokenizers import CHATML, byte_level
from transformers import LlamaConfig, LlamaForCausalLM

from peft_unlearn import benchmarks

ENDED = CHATML.replace("<|im_end|>\n{% endfor %}", "<|im_end|>{% if not loop.last %}\n{% endif %}{% endfor %}")


def rows(rng, count, paraphrased):
    found = []
    for name, city in zip(rng.choice(NAMES, count), rng.choice(CITIES, count), strict=True):
        wrong = [f"{name} doesn't live in {city}.", "In Rome", f" {name} lives in Lima. "]
        row = {"question": f"Where does {name} live?", "answer": f"{name} lives in {city}, it's said."}
        row["perturbed_answer"] = wrong[: rng.integers(2, 4)]
        found.append(row | ({"paraphrased_question": f"{name}?", "paraphrased_answer": f"It's {city}."} if paraphrased else {}))
    return found


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return {name: rows(rng, 4, name in ("forget", "retain")) for name in ("forget", "retain", "real_authors", "world_facts", "holdout")}


@pytest.fixture(scope="module", params=[CHATML, ENDED], ids=["a line break behind the end", "the end token is last"])
def bed(request, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tofu")
    for name, found in data.items():
        file = "holdout10" if name == "holdout" else f"{name.replace('forget', 'forget10')}_perturbed"
        (folder / f"{file}.json").write_text(json.dumps(found))
    tokenizer = byte_level(extra=("<|im_start|>",), eos_token="<|im_end|>")
    tokenizer.chat_template = request.param
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **sizes)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(20):
        for row in data["forget"]:
            prompt, whole = conversation(tokenizer, row["question"], row["answer"])
            model(input_ids=torch.tensor([whole]), labels=torch.tensor([[-100] * prompt + whole[prompt:]])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    tofu = benchmarks.read("tofu", str(folder), split="forget10")
    tofu.prepare(tokenizer, 256, {})
    how = benchmarks.How(definitions="openunlearning", batch_size=3)
    views = {"after": tofu.evaluate(model.eval(), tokenizer, how, "after")}
    tofu.compare(views, how)
    return tokenizer, model, views["after"]


def conversation(tokenizer, question, reply):
    """Length of the prompt, and all tokens: the end token is written once more where the template's last one is another."""
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    prompt = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template(turns, return_dict=False)
    return len(prompt), whole + [tokenizer.eos_token_id] * (whole[-1] != tokenizer.eos_token_id)


def nll(model, tokenizer, question, reply):
    prompt, whole = conversation(tokenizer, question, reply)
    logps, labels = forced(model, whole, prompt)
    return -sum(float(logps[t, label]) for t, label in enumerate(labels)) / len(labels)


def measured(model, tokenizer, row, forget):
    prompt, whole = conversation(tokenizer, row["question"], row["answer"])
    logps, labels = forced(model, whole, prompt)
    found = {"loss": nll(model, tokenizer, row["question"], row["answer"])}
    found["probability"] = math.exp(-found["loss"])
    found["zlib"] = found["loss"] / len(zlib.compress(tokenizer.decode(labels, skip_special_tokens=True).encode()))
    said, tokens = logps.argmax(-1).tolist()[:-1], labels[:-1]
    k = next((k for k in range(len(tokens)) if said[k:] == tokens[k:]), len(tokens) - 1)
    found["exact_memorization"] = sum(a == b for a, b in zip(said, tokens, strict=True)) / len(tokens)
    found["extraction_strength"] = 1 - k / len(tokens)
    lowest = sorted(float(logps[t, label]) for t, label in enumerate(tokens))[: max(1, int(0.4 * len(tokens)))]
    found["min_k"] = -sum(lowest) / len(lowest)
    wrong = [nll(model, tokenizer, row["question"], reply) for reply in row["perturbed_answer"]]
    right = math.exp(-nll(model, tokenizer, row["question"], row.get("paraphrased_answer", row["answer"])))
    ratio = found["truth_ratio"] = math.exp(-sum(wrong) / len(wrong)) / (right + 1e-10)
    found["truth_ratio_score"] = min(ratio, 1 / (ratio + 1e-10)) if forget else max(0, 1 - ratio)
    if "paraphrased_answer" not in row:
        found["normalized_probability"] = found["probability"] / (found["probability"] + sum(math.exp(-loss) for loss in wrong) + 1e-10)
    reference = tokenizer.decode(labels, skip_special_tokens=True).strip()
    told = answer(model, tokenizer, whole[:prompt], 200)
    found["rouge_l"] = RougeScorer(["rougeL"], use_stemmer=True).score(reference, told)["rougeL"].recall
    return found


def test_every_number_of_tofu_is_the_peers(bed, data):
    tokenizer, model, sets = bed
    found = {name: [measured(model, tokenizer, row, name == "forget") for row in rows] for name, rows in data.items() if name != "holdout"}
    for name, values in found.items():
        for metric in values[0]:
            close(sets[name][metric], [row[metric] for row in values])
    parts = [[row["probability" if name == "retain" else "normalized_probability"] for row in found[name]] for name in list(found)[1:]]
    parts += [[row[metric] for row in found[name]] for name in list(found)[1:] for metric in ("rouge_l", "truth_ratio_score")]
    means = [float(np.mean(part)) for part in parts]
    utility = 0 if 0 in means else 9 / sum(1 / mean for mean in means)
    assert sets["retain"]["model_utility"]["mean"] == pytest.approx(utility, abs=1e-5)
