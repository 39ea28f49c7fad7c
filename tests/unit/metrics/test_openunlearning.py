"""The peer's definitions, against a plain recomputation from the dense logits of a tiny model, a token at a time."""

import math
import zlib

import numpy as np
import pytest
import torch
from tiny_models import tiny_llama
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from peft_unlearn.metrics import openunlearning as peer
from peft_unlearn.model.scoring import RowScore, score

LENGTHS = [(3, 9), (5, 1), (1, 2), (4, 17), (2, 3), (6, 6), (3, 12)]  # tokens of prompt and answer, the end token among the answer's


def word_tokenizer():
    words = {f"w{i}": i + 3 for i in range(61)}
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, **words}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def bed():
    """Rows, their scores, and of each row the dense log-probabilities at its labels: (L, V) in float64, a row at a time, no padding."""
    model = tiny_llama(3)
    generator = torch.Generator().manual_seed(0)
    rows, dense = [], []
    for prompt, answer in LENGTHS:
        ids = torch.randint(3, 64, (1 + prompt + answer,), generator=generator)
        ids[0], ids[-1] = 1, 2
        rows.append({"input_ids": ids.tolist(), "labels": [-100] * (1 + prompt) + ids[1 + prompt :].tolist()})
    # one row that greedy decoding follows from its third answer token on
    ids = rows[3]["input_ids"]
    for place in range(7, len(ids) - 1):
        with torch.no_grad():
            ids[place] = rows[3]["labels"][place] = int(model(torch.tensor([ids[:place]])).logits[0, -1].argmax())
    for row in rows:
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0].double()
        places = [i for i, label in enumerate(row["labels"]) if label != -100]
        dense.append((logits[[i - 1 for i in places]].log_softmax(-1), [row["labels"][i] for i in places]))
    return rows, score(model, rows, word_tokenizer(), batch_size=3), dense


def nll(dense):
    logps, labels = dense
    return -sum(float(logps[t, label]) for t, label in enumerate(labels)) / len(labels)


def test_probability_and_loss_count_the_end_token(bed):
    _, scores, dense = bed
    for found, row in zip(scores, dense, strict=True):
        assert peer.loss(found) == pytest.approx(nll(row), abs=1e-5)
        assert peer.probability(found) == pytest.approx(math.exp(-nll(row)), abs=1e-5)
        assert peer.zlib(found, "some text é") == pytest.approx(nll(row) / len(zlib.compress(bytes("some text é", "utf-8"))), abs=1e-5)


def test_memorization_leaves_the_last_label_out_and_has_a_floor(bed):
    _, scores, dense = bed
    strengths = []
    for found, (logps, labels) in zip(scores, dense, strict=True):
        predictions, truth = logps.argmax(-1).tolist()[:-1], labels[:-1]
        if not truth:
            assert peer.exact_memorization(found) is None
            assert peer.extraction_strength(found) == 0
            continue
        assert peer.exact_memorization(found) == pytest.approx(sum(p == t for p, t in zip(predictions, truth, strict=True)) / len(truth))
        k = next((k for k in range(len(truth)) if predictions[k:] == truth[k:]), len(truth) - 1)
        strengths.append(peer.extraction_strength(found))
        assert strengths[-1] == pytest.approx(1 - k / len(truth))
        assert strengths[-1] >= 1 / len(truth) - 1e-12
    assert max(strengths) > 0.8


def test_min_k_reads_the_lowest_two_fifths_without_the_last_label(bed):
    _, scores, dense = bed
    for found, (logps, labels) in zip(scores, dense, strict=True):
        tokens = [float(logps[t, label]) for t, label in enumerate(labels)][:-1]
        count = max(1, int(0.4 * len(tokens)))
        assert peer.min_k(found) == pytest.approx(-sum(sorted(tokens)[:count]) / count if tokens else 0, abs=1e-5)
        normal = []
        for t, value in enumerate(tokens):
            p = logps[t].exp()
            mean = float((p * logps[t]).sum())
            variance = max(1e-6, float((p * logps[t] ** 2).sum()) - mean**2)
            normal.append((value - mean) / math.sqrt(variance))
        assert peer.min_k_pp(found) == pytest.approx(-sum(sorted(normal)[:count]) / count if tokens else 0, rel=1e-4, abs=1e-5)


def test_a_certain_prediction_has_its_variance_clamped():
    certain = RowScore(
        logps=np.array([-2e-3, -1.0]), correct=np.array([True, True]), end=1, means=np.array([-1e-3, 0.0]), deviations=np.array([1e-9, 1.0])
    )
    assert peer.min_k_pp(certain) == pytest.approx(1e-3 / 1e-3)


def test_truth_ratio_is_a_ratio_of_geometric_means(bed):
    _, scores, dense = bed
    ratio = peer.truth_ratio(scores[2:6], scores[0])
    wrong = math.exp(-sum(nll(row) for row in dense[2:6]) / 4)
    assert ratio == pytest.approx(wrong / (math.exp(-nll(dense[0])) + 1e-10), abs=1e-5)
    assert peer.closer_to_1_better(ratio) == pytest.approx(min(ratio, 1 / ratio))
    assert peer.closer_to_1_better(4.0) == pytest.approx(0.25)
    assert [peer.true_better(value) for value in (0.2, 1.5)] == [pytest.approx(0.8), 0]
    p = [math.exp(-nll(row)) for row in dense]
    assert peer.normalized_probability(scores[0], scores[1:4]) == pytest.approx(p[0] / (p[0] + p[1] + p[2] + p[3] + 1e-10), abs=1e-5)
    assert peer.truth_ratio([], scores[0]) is None
    assert peer.normalized_probability(scores[0], []) is None


def test_priv_leak_counts_from_the_other_side_of_the_auc():
    # retrained: forget rows look like members in 45 % of the pairs; the unlearned model's in 80 %
    assert peer.priv_leak(0.8, 0.45) == pytest.approx((0.2 - 0.55) / 0.55 * 100)
    assert peer.priv_leak(0.5) == pytest.approx(0)


def test_rouge_is_recall_for_tofu_and_f1_for_muse():
    assert peer.rouge_l("the cat sat down", "cats sat on a mat") == pytest.approx(2 / 4)
    assert peer.rouge_l("the cat sat down", "cats sat on a mat", "fmeasure") == pytest.approx(2 * (2 / 4) * (2 / 5) / (2 / 4 + 2 / 5))
    assert peer.rouge_l("猫", "cat") == 0


def test_nan_of_a_broken_model_stays_nan():
    broken = RowScore(logps=np.array([np.nan, -1.0, -1.0]), correct=np.zeros(3, bool), end=1, means=np.zeros(3), deviations=np.ones(3))
    for metric in (peer.loss, peer.probability, peer.exact_memorization, peer.extraction_strength):
        assert math.isnan(metric(broken))
    assert math.isnan(peer.truth_ratio([broken], broken))
