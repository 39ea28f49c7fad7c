"""The verdict on small models that were really trained."""

import copy

import pytest
import torch
from tiny_models import tiny_llama
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from peft_unlearn import report
from peft_unlearn.metrics.suite import evaluate


@pytest.fixture(scope="module")
def beds():
    """Four ways a run can end, really trained: rows of random tokens, memorized, and then forgotten or not."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(3)
    inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w63"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="w0", bos_token="w1", eos_token="w2")

    def make(count: int) -> list[dict[str, list[int]]]:
        ids = torch.randint(3, 64, (count, 12), generator=generator).tolist()
        return [{"input_ids": [1, *row], "labels": [-100] * 5 + row[4:]} for row in ids]

    forget, retain = make(48), make(16)

    def train(model, steps: int, *, down=(), up=()):
        model = copy.deepcopy(model).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for _ in range(steps):
            loss = torch.zeros(())
            for sign, found in ((1, down), (-1, up)):
                if found:
                    batch = {key: torch.tensor([row[key] for row in found]) for key in ("input_ids", "labels")}
                    loss = loss + sign * model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.eval()

    start = tiny_llama()
    never = train(start, 60, down=retain)
    before = train(start, 70, down=forget + retain)
    ends = {"untouched": before, "retrained": never, "gibberish": tiny_llama(9), "past": train(before, 60, down=retain, up=forget)}

    def look(model):
        return {
            name: evaluate(model, tokenizer, found, generate=False, batch_size=16)
            for name, found in (("forget", forget), ("retain", retain))
        }

    return {name: look(model) for name, model in ends.items()}


@pytest.mark.parametrize(
    ("end", "word"),
    [("untouched", "NOT FORGOTTEN"), ("retrained", "FORGOTTEN AS TESTED"), ("gibberish", "COLLAPSED"), ("past", "OVER-FORGOTTEN")],
)
@pytest.mark.parametrize("with_before", [True, False])
def test_real_models(beds, end, word, with_before):
    views = {"after": beds[end], "never_seen": beds["retrained"]} | ({"before": beds["untouched"]} if with_before else {})
    results = {name: {view: found[name] for view, found in views.items()} for name in ("forget", "retain")}
    found = report.build(results, {}, never_seen={"kind": "retrained", "name": None})["verdict"]
    assert found["word"] == word, found["reasons"]
