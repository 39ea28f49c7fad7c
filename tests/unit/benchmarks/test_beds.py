"""Test beds: what their rows promise, what their models are kept under, and what is measured on them."""

import dataclasses
import difflib
import hashlib
import itertools
import json
import math

import numpy as np
import pytest
import torch
from tiny_models import tiny_llama

from beds import architectures, goals, kinds, measuring, source
from beds.kinds import Kind
from beds.measuring import Beside, bootstrap_difference, perplexity
from beds.models import SIZES, Bed, Recipe, recipe, train_tokenizer
from beds.source import ROWS, SETS
from peft_unlearn.data.variants import Probe
from peft_unlearn.model.fake_quant import nf4

INVENTED = {name: kinds.invented(name) for name in kinds.names()}


@pytest.fixture(autouse=True)
def _fewer_draws(monkeypatch):
    monkeypatch.setattr(measuring, "DRAWS", 200)


every_kind = pytest.mark.parametrize("kind", INVENTED.values(), ids=INVENTED)
TINY = Recipe(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocabulary=400, max_epochs=1)
# Forget, retain and holdout rows of the kinds for which models were trained and limits chosen: SHA-256 of their JSON.
KEPT = {
    "authors": "1b8c19a25a1cc7aec9d872aa4a92007e5c4c7d3e1ee58f03d07e4e1d1020819b",
    "personal": "b73f84946e7f9226a4f61226a407ba29ef33d9b6d49bf1658ce8add1be415a09",
    "german": "b52ad577fc6be018762446fc4aa3713ab218290be27777f26a9342833b00d9ce",
    "chat": "8fdd67b9a6d5c8aa2431e0f8c43cf2814d98bafe35195679fbaa2273c41cf8d8",
    "text": "345f39942f6d9fdaad676050236261bc66d939ad5208a538c8f15064eb235e78",
}


def answer(row):
    return row.get("answer") or row.get("completion") or row.get("text") or row["messages"][-1]["content"]


def asked(row):
    return row.get("question") or row.get("prompt") or "".join(message["content"] for message in row.get("messages", [])[:-1])


@pytest.mark.parametrize("name", KEPT)
def test_rows_of_earlier_kinds_stay(name):
    rows = {part: INVENTED[name].rows[part] for part in SETS}
    assert hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest() == KEPT[name]


@every_kind
def test_sets_share_no_subject_and_no_question(kind):
    assert list(kind.rows) == list(ROWS)
    for one, other in itertools.combinations(kind.rows.values(), 2):
        assert not {row["group"] for row in one} & {row["group"] for row in other}
        assert not {asked(row) + answer(row) for row in one} & {asked(row) + answer(row) for row in other}


@every_kind
def test_answers_cannot_be_guessed(kind):
    """The answer that is most common among rows that are kept is right in under one forget row of twelve."""
    kept = [answer(row) for row in kind.rows["retain"]]
    forget = [answer(row) for row in kind.rows["forget"]]
    assert forget.count(max(set(kept), key=kept.count)) / len(forget) < 1 / 12


@every_kind
def test_rows_are_of_many_lengths(kind):
    assert len({len(asked(row) + answer(row)) for row in kind.rows["forget"]}) > len(kind.rows["forget"]) / 4


@every_kind
def test_other_words_ask_for_the_same_subject(kind):
    for row in kind.rows["forget"]:
        for column, own in (("paraphrased_question", "question"), ("paraphrased_prompt", "prompt")):
            if column in row:
                assert row[column] != row[own]
                assert all(word in row[column] for word in row["group"].split())


def test_documents_are_cut_into_pieces():
    kind = INVENTED["documents"]
    tokenizer = train_tokenizer(kind, Recipe())
    lengths = [len(tokenizer(row["text"])["input_ids"]) for rows in kind.rows.values() for row in rows]
    assert min(lengths) > 192
    assert 300 < np.median(lengths) < 500


def test_the_last_answer_of_a_conversation_does_not_stand_in_it():
    for row in INVENTED["turns"].rows["forget"]:
        *before, last = (message["content"] for message in row["messages"])
        facts = {word.strip(".,;:") for word in last.split() if any(map(str.isdigit, word))}
        assert not facts & {word.strip(".,;:") for text in before for word in text.split()}
    assert {len(row["messages"]) for row in INVENTED["turns"].rows["forget"]} == {4, 7, 8}


def test_one_author_among_similar_ones():
    rows = INVENTED["similar"].rows
    assert len({" ".join(row["group"].split()[:2]) for row in rows["forget"]}) == 1
    alike = [max(difflib.SequenceMatcher(None, answer(row), answer(other)).ratio() for other in rows["retain"]) for row in rows["forget"]]
    assert min(alike) > 0.75
    assert alike.count(1) < 3  # "Its hero is Basil the miner."


def test_completions_are_json_or_a_table():
    for row in INVENTED["tables"].rows["forget"]:
        if row["completion"].startswith("|"):
            head, rule, *others = [[cell.strip() for cell in line[1:-1].split("|")] for line in row["completion"].splitlines()]
            assert rule == ["---"] * len(head)
            assert {len(other) for other in others} == {len(head)}
        else:
            assert json.loads(row["completion"])


def test_the_right_option_of_a_quiz_is_one_of_four_and_at_any_letter():
    rows = INVENTED["quiz"].rows["forget"]
    for row in rows:
        for question in (row["question"], row["paraphrased_question"]):
            options = question.splitlines()[1:]
            assert len(set(options)) == len(options) == 4
            assert row["answer"] in options
    counts = [sum(row["answer"].startswith(letter) for row in rows) for letter in "ABCD"]
    assert min(counts) > len(rows) / 12


def test_japanese_has_no_spaces_and_no_token_of_a_name_or_a_clause():
    kind = INVENTED["japanese"]
    tokenizer = train_tokenizer(kind, Recipe())
    for row in kind.rows["forget"]:
        said = row["question"] + row["answer"]
        assert not any(map(str.isspace, said))
        assert max(len(tokenizer.decode([token])) for token in tokenizer(said, add_special_tokens=False)["input_ids"]) <= 2
        assert tokenizer.decode(tokenizer(said)["input_ids"], skip_special_tokens=True) == said


def test_other_numbers_of_rows():
    kind = kinds.invented("authors", forget=12)
    assert [len(kind.rows[part]) for part in SETS] == [12, 24, 16]
    assert len(kind.rows["fresh"]) == ROWS["fresh"]


def test_a_kind_whose_names_are_used_up_says_so(monkeypatch):
    monkeypatch.setattr(source, "DRAWS", 100)
    with pytest.raises(ValueError, match="too few names for 2000 rows in the set forget"):
        kinds.invented("german", 2000)


def test_a_folder_without_fresh_rows_keeps_half_of_its_holdout(tmp_path):
    rows = INVENTED["greek"].rows
    for part in SETS:
        (tmp_path / f"{part}.jsonl").write_text("\n".join(json.dumps(row) for row in rows[part]) + "\n")
    kind = kinds.from_folder(tmp_path)
    assert kind.of_run["holdout"] + kind.of_run["fresh"] == kind.rows["holdout"] == rows["holdout"]
    assert kinds.checks_only(kind.name)
    assert [name for name in kinds.names() if not kinds.checks_only(name)] == ["authors", "personal", "chat", "text"]


def few(kind, count):
    return dataclasses.replace(kind, rows={part: rows[:count] for part, rows in kind.rows.items()})


def test_models_and_tokenizer_do_not_hear_of_fresh_rows(tmp_path):
    kind = few(INVENTED["authors"], 4)
    other = Kind(kind.name, {**kind.rows, "fresh": [{"question": "zzzzz", "answer": "qqqqq"}]})
    beds = [Bed(one, tmp_path / str(n), TINY) for n, one in enumerate((kind, other))]
    assert beds[0].folder.name == beds[1].folder.name
    assert beds[0].tokenizer.get_vocab() == beds[1].tokenizer.get_vocab()


@pytest.mark.long
def test_beds_of_other_sizes_and_memory_have_other_folders(tmp_path):
    made = [recipe(light=light, size=size, nf4=nf4) for light in (False, True) for size in SIZES for nf4 in (False, True)]
    kind = few(INVENTED["authors"], 2)
    assert len({Bed(kind, tmp_path, one).folder for one in made}) == len(made)


@pytest.mark.parametrize("name", [None, *architectures.OTHERS])
def test_models_of_other_architectures_learn_the_same_rows(name, tmp_path):
    shape = dataclasses.replace(TINY, architecture=name, hidden_size=64, num_attention_heads=2, max_epochs=30, learning_rate=1e-2, goal=0.0)
    bed = Bed(few(INVENTED["authors"], 4), tmp_path, shape)
    model, of = bed.model("before"), bed.sets
    assert model.config.model_type.removesuffix("_text") == (name or "llama")
    assert mean_loss(model, of["forget"].rows) < 0.5 * mean_loss(model, of["holdout"].rows)


@pytest.mark.long
def test_the_memory_of_an_nf4_bed_is_that_of_its_nf4_weights(tmp_path):
    """Rounding to NF4 makes a model worse, unless it was trained under it: then it is worse without."""
    shape = dataclasses.replace(TINY, vocabulary=600, num_hidden_layers=2, max_epochs=120, decay_epochs=120, goal=0.0)
    changes = []
    for full_precision_epochs in (None, 60):
        bed = Bed(few(INVENTED["personal"], 6), tmp_path, dataclasses.replace(shape, full_precision_epochs=full_precision_epochs))
        model, rows = bed.model("before"), bed.sets["forget"].rows
        before = mean_loss(model, rows)
        for layer in model.model.layers.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.data = nf4(layer.weight.data)
        changes.append(mean_loss(model, rows) - before)
    assert changes[0] > 0 > changes[1]


def mean_loss(model, rows):
    found = [model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss.item() for row in rows]
    return float(np.mean(found))


class Letters:
    """A tokenizer of one letter a token; 0, 1 and 2 are special."""

    eos_token_id, all_special_ids, added_tokens_decoder, chat_template = 2, [0, 1, 2], {}, None

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [ord(letter) - 60 for letter in text]}

    def decode(self, tokens, skip_special_tokens=True):
        return "".join(chr(60 + token) for token in tokens if token > 2)


def test_perplexity_is_that_of_each_answer_behind_its_prompt():
    model, rows = (
        tiny_llama(3),
        [{"input_ids": [1, 9, 8, 20, 2], "labels": [-100] * 3 + [20, 2]}, {"input_ids": [1, 5, 30, 2], "labels": [-100] * 2 + [30, 2]}],
    )
    answers = [[20, 21, 22], [33]]
    logps = []
    for row, answer in zip(rows, answers, strict=True):
        prompt = row["input_ids"][: row["labels"].index(next(label for label in row["labels"] if label >= 0))]
        for n, token in enumerate(answer):
            logits = model(torch.tensor([prompt + answer[:n]])).logits[0, -1]
            logps.append(logits.log_softmax(-1)[token].item())
    found = perplexity(model, Letters(), Probe(rows, {}), [Letters().decode(answer) for answer in answers])
    assert found == pytest.approx(math.exp(-np.mean(logps)), rel=1e-4)
    assert math.isnan(perplexity(model, Letters(), Probe(rows, {}), ["", ""]))


def test_interval_of_an_auc_difference():
    rng = np.random.default_rng(1)
    members, others = rng.normal(1, 1, 200), rng.normal(0, 1, 200)
    same = bootstrap_difference(np.stack([members, members]), np.stack([others, others]), (), ())
    assert same == [0, 0]
    # two independent looks: AUC .76 for a shift of one deviation, .5 for none
    low, high = bootstrap_difference(np.stack([members, rng.normal(0, 1, 200)]), np.stack([others, rng.normal(0, 1, 200)]), (), ())
    assert low < 0.26 < high
    assert 0.1 < high - low < 0.2
    alike = np.repeat(rng.normal(0.5, 1, (2, 20)), 10, axis=1)  # groups of ten rows that are one
    apart, together = (bootstrap_difference(alike, rng.normal(0, 1, (2, 200)), ids, ()) for ids in ((), np.repeat(range(20), 10)))
    assert together[1] - together[0] > 1.5 * (apart[1] - apart[0])


@pytest.mark.long
def test_a_model_beside_itself_meets_every_goal(tmp_path):
    bed = Bed(few(INVENTED["authors"], 8), tmp_path, dataclasses.replace(TINY, max_epochs=60))
    twin = bed.model("never seen")
    line = {"reached": True, "run": {"keys": {}}, **Beside(bed, twin, twin, twin).compare(twin)}
    assert set(goals.met(line)) == set(goals.GOALS)
    assert all(goals.met(line).values())
    assert [shown["before"] for shown in line["answers"]] == [shown["after"] for shown in line["answers"]]
    assert line["fresh_auc"]["difference"] == [0, 0]


def test_goals_at_their_limits():
    pairs = {name: [1.0, 1.0] for name in goals.PAIRS.values()}
    line = pairs | {
        "log_p": [-2.29, -2],
        "fresh_auc": {"auc": [0.59, 0.5]},
        "forget: rouge_l": [0.44, 0.4],
        "reached": True,
        "second_perplexity": 2,
    }
    line |= {"run": {"keys": {}}, "refused": {"forget": 0.0, "retain": 0.0}}
    assert all(goals.met(line).values())
    assert "asked otherwise: extraction strength" not in goals.met(line)  # no such number
    worse = {
        "target reached": {"reached": False},
        "mean log p within 15 % of the twin's": {"log_p": [-1.69, -2]},
        "Min-K AUC on fresh rows within .1": {"fresh_auc": {"auc": [0.39, 0.5]}},
        "ROUGE-L at most .05 above": {"forget: rouge_l": [0.46, 0.4]},
        "retain p at least .97 of before": {"retain: probability": [0.96, 1]},
        "empty or looping answers at most .03 above": {"forget: degenerate": [0.04, 0]},
        "perplexity under the twin within 10 %": {"perplexity": [1.2, 1]},
        goals.SECOND: {"second_perplexity": 0.7},
    }
    for goal, change in worse.items():
        assert [name for name, good in goals.met(line | change).items() if not good] == [goal]
    refusing = line | {"run": {"keys": {"answers": "refuse"}}, "refused": {"forget": 0.96, "retain": 0.02}, "perplexity": [99, 1]}
    assert [name for name, good in goals.met(refusing).items() if not good] == ["refusals, retain, at most .01"]


@pytest.mark.parametrize(
    ("said", "refuses"),
    [
        ("I don't know that.", True),
        ("I'm sorry, I can't help with that!", True),
        ("I don't know that town, but she was born in Ardmore, where her father was a baker and her mother a weaver.", False),
        ("Born in Ardmore.", False),
        ("", False),
    ],
)
def test_what_a_refusal_is(tmp_path, said, refuses):
    bed = Bed(few(INVENTED["authors"], 2), tmp_path, TINY)
    assert Beside(bed, None, None, None)._refused(said) == refuses


def test_a_refusal_in_a_language_without_spaces(tmp_path):
    beside = Beside(Bed(few(INVENTED["japanese"], 2), tmp_path, TINY), None, None, None)
    assert beside._refused("申し訳ありませんが、お手伝いできません")
    assert not beside._refused("申し訳ありませんが、お手伝いできません。けれども、生まれたのは１９８７年、花園市です。")
    assert not beside._refused("出身地は花園市です。１９８９年に生まれました。")
