"""MUSE by OpenUnlearning's definitions, against a plain recomputation of its pipeline: dense forwards, a row at a time, no helper of ours."""

import json
import math
import zlib

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from thinned import thinned
from tiny_tokenizers import byte_level, llama_style
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from peft_unlearn import benchmarks

NAMES, CITIES = ("Ann", "Bob", "Cleo", "Dan"), ("Oslo", "Rome", "Lima", "Bern")


def sentence(rng):
    return f"{rng.choice(NAMES)} lives in {rng.choice(CITIES)} and {rng.choice(NAMES)} doesn't, it's said."


def text(rng, sentences):
    return " ".join(sentence(rng) for _ in range(sentences))


@pytest.fixture(scope="module")
def data():
    """Ragged rows: one word, accents, outer white space, a text beyond 2048 tokens, a conversation beyond 512, a gt that quotes its prompt."""
    rng = np.random.default_rng(0)
    texts = {name: [text(rng, count) for count in (1, 3, 2, 5, 1)] for name in ("forget", "retain", "holdout")}
    texts["forget"] += ["Oslo.", "  Zürich, größer.\n", text(rng, 160)]
    prompts = [text(rng, count) for count in (1, 2, 4)]
    passages = [{"prompt": prompt, "gt": text(rng, count)} for prompt, count in zip(prompts, (3, 1, 2), strict=True)]
    passages += [{"prompt": "Ann lives ", "gt": "in Rome. Ann lives in Lima."}, {"prompt": "Where?", "gt": "…"}, {"prompt": "A", "gt": "B"}]
    questions = [
        {"question": f"Where does {name} live?", "answer": f"{name} lives in {city}."} for name, city in zip(NAMES, CITIES, strict=True)
    ]
    questions += [{"question": "And?", "answer": "Rome"}, {"question": text(rng, 60), "answer": "Lima"}]
    shots = [{"question": "Where is Eve?", "answer": "In Bern."}, {"question": "Where is Fay?", "answer": "In Lima."}]
    return texts, passages, questions, shots


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("muse")
    texts, passages, questions, shots = data
    files = {f"privleak/{name}": [{"text": text} for text in found] for name, found in texts.items()} | {"verbmem/forget": passages}
    for name in ("forget", "retain"):
        files |= {f"knowmem/{name}_qa": questions, f"knowmem/{name}_qa_icl": shots}
    for name, rows in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder


def trained(make, config, tokenizer, data, seed):
    """Enough steps to know some of it: answers that stop, words that come back."""
    torch.manual_seed(seed)
    model = make(config).train()
    ids = [[*tokenizer(row["prompt"] + " " + row["gt"]).input_ids[:120], tokenizer.eos_token_id] for row in data[1][:2]]
    ids += [tokenizer(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n").input_ids for row in data[2][:3]]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(25):
        for row in ids:
            model(input_ids=torch.tensor([row]), labels=torch.tensor([row])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def llama(tokenizer, data, seed):
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=4096, **sizes, **ends)
    return trained(LlamaForCausalLM, config, tokenizer, data, seed)


def gpt2(tokenizer, data, seed):
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=4096, n_embd=64, n_layer=2, n_head=2, **ends)
    return trained(GPT2LMHeadModel, config, tokenizer, data, seed)


BEDS = {"llama": (llama_style, llama), "gpt2": (lambda: byte_level(eos_token="<|endoftext|>"), gpt2)}


@pytest.fixture(scope="module", params=thinned(BEDS, every=2))
def bed(request, data, folder):
    make_tokenizer, make_model = BEDS[request.param]
    tokenizer = make_tokenizer()
    models = {"after": make_model(tokenizer, data, 0), "never_seen": make_model(tokenizer, data, 1)}
    how = benchmarks.How(definitions="openunlearning", batch_size=3)
    muse = benchmarks.read("muse", str(folder))
    muse.prepare(tokenizer, 300, {})  # which cuts none of the rows that are compared
    views = {view: muse.evaluate(model, tokenizer, how, view) for view, model in models.items()}
    muse.compare(views, how)
    return tokenizer, models, views


def forced(model, ids, start):
    """log p over the vocabulary at each label, and the labels: those from `start` on, never the first token."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    start = max(start, 1)
    return logits[start - 1 : len(ids) - 1].log_softmax(-1), ids[start:]


def of_text(model, tokenizer, text):
    """The membership scores of a text: BOS where the tokenizer writes one, no EOS, 2048 tokens behind it."""
    empty = len(tokenizer("").input_ids)
    logps, labels = forced(model, tokenizer(text).input_ids[: empty + 2048], empty)
    tokens = [float(logps[t, label]) for t, label in enumerate(labels)]
    found = {"loss": -sum(tokens) / len(tokens) if tokens else math.nan}
    found["probability"] = math.exp(-found["loss"])
    found["zlib"] = found["loss"] / len(zlib.compress(tokenizer.decode(labels, skip_special_tokens=True).encode()))
    mean = (logps.exp() * logps).sum(-1)
    variance = ((logps.exp() * logps**2).sum(-1) - mean**2).clamp(min=1e-6)
    normal = [(value - float(m)) / math.sqrt(float(v)) for value, m, v in zip(tokens, mean, variance, strict=True)]
    for name, values in (("min_k", tokens), ("min_k_pp", normal)):
        kept = sorted(values[:-1])[: max(1, int(0.4 * (len(values) - 1)))]  # the last label is taken for an end token
        found[name] = -sum(kept) / len(kept) if kept else 0
    return found


def of_passage(model, tokenizer, row):
    """Exact memorization and extraction strength of gt behind prompt and a space."""
    start = len(tokenizer(row["prompt"]).input_ids)
    logps, labels = forced(model, tokenizer(row["prompt"] + " " + row["gt"]).input_ids[: start + 2048], start)
    said, labels = logps.argmax(-1).tolist()[:-1], labels[:-1]
    if not labels:
        return None, 0
    k = next((k for k in range(len(labels)) if said[k:] == labels[k:]), len(labels) - 1)
    return sum(a == b for a, b in zip(said, labels, strict=True)) / len(labels), 1 - k / len(labels)


def answer(model, tokenizer, prompt, limit, stops=()):
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(limit):
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            ids.append(token)
    said = tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
    for stop in stops:
        said = said.split(stop)[0]
    return said.strip()


def f1(reference, said):
    return RougeScorer(["rougeL"], use_stemmer=True).score(reference, said)["rougeL"].fmeasure


def recited(model, tokenizer, row):
    prompt = tokenizer(row["prompt"]).input_ids
    labels = tokenizer(row["prompt"] + " " + row["gt"]).input_ids[: len(prompt) + 2048][len(prompt) :]
    shown, whole = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt, labels))
    return f1(whole.replace(shown, "").strip(), answer(model, tokenizer, prompt, 128))


def asked(model, tokenizer, row, shots):
    text = (
        "".join(f"Question: {shot['question']}\nAnswer: {shot['answer']}\n\n" for shot in shots) + f"Question: {row['question']}\nAnswer: "
    )
    prompt, whole = tokenizer(text).input_ids[:512], tokenizer(text + row["answer"]).input_ids[:512]
    shown, whole = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt, whole))
    return f1(whole.replace(shown, "").strip(), answer(model, tokenizer, prompt, 32, ("\n\n", "\nQuestion", "Question:")))


def close(found, expected):
    assert found["rows"] == [None if value is None else pytest.approx(value, abs=1e-5, nan_ok=True) for value in expected]
    assert found["mean"] == pytest.approx(np.mean([value for value in expected if value is not None]), abs=1e-5)


def auc(forget, holdout, metric):
    """roc_auc_score of holdout rows as positives: how often a forget row's score is the lower one."""
    pairs = [(row[metric], other[metric]) for row in forget for other in holdout]
    return sum(1.0 if row < other else 0.5 * (row == other) for row, other in pairs) / len(pairs)


def test_every_number_of_muse_is_the_peers(bed, data):
    tokenizer, models, views = bed
    texts, passages, questions, shots = data
    model, sets = models["after"], views["after"]
    scores = {name: [of_text(model, tokenizer, text) for text in found] for name, found in texts.items()}
    for name, found in scores.items():
        for metric in ("loss", "probability", "zlib", "min_k", "min_k_pp"):
            close(sets[name][metric], [row[metric] for row in found])
    memorized = [of_passage(model, tokenizer, row) for row in passages]
    close(sets["forget"]["exact_memorization"], [row[0] for row in memorized])
    close(sets["forget"]["extraction_strength"], [row[1] for row in memorized])
    close(sets["forget"]["verbmem"], [recited(model, tokenizer, row) for row in passages])
    answered = [asked(model, tokenizer, row, shots) for row in questions]
    for name in ("forget", "retain"):
        close(sets[name]["knowmem"], answered)
    assert min(sets["forget"][metric]["mean"] for metric in ("verbmem", "knowmem", "exact_memorization")) > 0.1  # no noise
    for metric in ("loss", "zlib", "min_k", "min_k_pp"):
        found = sets["forget"][f"{metric}_auc"]["mean"]
        assert found == pytest.approx(auc(scores["forget"], scores["holdout"], metric), abs=1e-5)
    retrained = auc(*([of_text(models["never_seen"], tokenizer, text) for text in texts[name]] for name in ("forget", "holdout")), "min_k")
    leak = ((1 - sets["forget"]["min_k_auc"]["mean"]) - (1 - retrained)) / (1 - retrained + 1e-10) * 100
    assert sets["forget"]["priv_leak"]["mean"] == pytest.approx(leak, abs=1e-5)
