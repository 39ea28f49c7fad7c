"""A4, prompts: other questions, an answer that has begun to comply, examples of the same kind, the first third of the answer.

Each is measured on the answer's own tokens, but the last: a prefix is what extraction strength counts already, so the rest is written freely and
compared by ROUGE-L. The worst form of each row counts as well: an asker tries them all.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from peft_unlearn.attacks.asking import scored, strongest
from peft_unlearn.attacks.context import Context, Shown, shown, take
from peft_unlearn.data.labels import IGNORE
from peft_unlearn.data.rows import Row, answer_texts, special_ids, split
from peft_unlearn.metrics.results import summarize
from peft_unlearn.metrics.rouge_l import rouge_l
from peft_unlearn.model import generation
from peft_unlearn.util.registry import attack

COMPLIES = " Sure, here is the answer:"
EXAMPLES = 3


@attack(order=4, quick=True, control=True)
def prompts(context: Context) -> list[Shown]:
    """Other prompts: paraphrases, a compliant beginning, examples, a third of the answer."""
    probe = context.probes["forget"]
    rows = probe.rows
    paraphrased = probe.variants.get("paraphrased_question", [[] for _ in rows])
    forms: dict[str, list[list[Row]]] = {
        "paraphrases": [list(group) for group in paraphrased],
        "an answer that begins to comply": [[row] for row in complying(rows, context.tokenizer)],
    }
    if "retain" in context.probes:
        retain = context.probes["retain"].rows
        examples = take(retain, [i * len(retain) // EXAMPLES for i in range(EXAMPLES)])
        context_length = generation.context_length(context.model)
        forms["examples of the same kind"] = [[row] for row in with_examples(rows, examples, context.tokenizer, context_length)]
    own = scored(context, [[row] for row in rows], "prompts: scoring")
    others = {form: scored(context, groups, f"prompts: {form}") for form, groups in forms.items()}

    found = []
    for form, groups in others.items():
        if any(groups):
            found += strongest(form, groups, threshold="prompts")
    every = [[one for ways in of_row for one in ways] for of_row in zip(own, *others.values(), strict=True)]
    found += strongest("the worst of all of these", every, threshold="prompts")
    if "rouge_l" in context.plain[context.view]["forget"]:
        found.append(_begun(context, rows))
    return found


def _begun(context: Context, rows: Sequence[Row]) -> Shown:
    """ROUGE-L recall of what follows the first third of each answer."""
    begun = [begin(row, context.tokenizer) for row in rows]
    model = context.model
    answers = generation.generate(model, context.tokenizer, begun, batch_size=context.batch_size, progress="prompts: answering")
    values = [rouge_l(reference, answer) for reference, answer in zip(answer_texts(context.tokenizer, begun), answers, strict=True)]
    return shown("the first third of the answer", "rouge_l", summarize(values), threshold="prompts")


def complying(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """Rows with "Sure, here is the answer:" between prompt and answer; before a text without a prompt."""
    words = list(tokenizer(COMPLIES, add_special_tokens=False)["input_ids"])
    return [insert(row, _answer_start(row), words) for row in rows]


def with_examples(rows: Sequence[Row], examples: Sequence[Row], tokenizer: PreTrainedTokenizerBase, longest: int) -> list[Row]:
    """Rows after whole other ones, as many as fit into `longest` tokens; of each but the first the bos token is left out."""
    found = []
    for row in rows:
        kept: list[int] = []
        for example in examples:
            tokens = _without_bos(list(example["input_ids"]), tokenizer) if kept else list(example["input_ids"])
            if len(kept) + len(tokens) + len(row["input_ids"]) <= longest:
                kept += tokens
        bos = len(row["input_ids"]) - len(_without_bos(list(row["input_ids"]), tokenizer)) if kept else 0
        own = {"input_ids": list(row["input_ids"])[bos:], "labels": list(row["labels"])[bos:]}
        found.append(insert(own, 0, kept))
    return found


def begin(row: Row, tokenizer: PreTrainedTokenizerBase) -> Row:
    """The row with the first third of its answer in the prompt, at least one token."""
    prompt, answer = split(row, special_ids(tokenizer))
    start = max(1, len(answer) // 3) if len(answer) > 1 else 0
    return {"input_ids": prompt + answer, "labels": [IGNORE] * (len(prompt) + start) + answer[start:]}


def insert(row: Row, at: int, tokens: Sequence[int]) -> Row:
    """The row with unlabelled tokens before position `at`."""
    ids, labels = list(row["input_ids"]), list(row["labels"])
    return {"input_ids": [*ids[:at], *tokens, *ids[at:]], "labels": [*labels[:at], *[IGNORE] * len(tokens), *labels[at:]]}


def _answer_start(row: Row) -> int:
    """Where the labels begin; never before the first token, which is bos where a text has one."""
    return max(1, next((i for i, label in enumerate(row["labels"]) if label != IGNORE), len(row["labels"])))


def _without_bos(tokens: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return tokens[1:] if tokens and tokens[0] == tokenizer.bos_token_id else tokens
