"""A second turn: the model answers, is asked whether it is sure, and the right answer is looked for in what it says then.

An answer that was trained away after the question need not be away after a question and another answer.
"""

from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from peft_unlearn.attacks.asking import row, scored, strongest
from peft_unlearn.attacks.context import Context, Shown, Skipped, shown
from peft_unlearn.data.rows import Row, answer_texts, special_ids, split
from peft_unlearn.metrics.results import summarize
from peft_unlearn.metrics.rouge_l import rouge_l
from peft_unlearn.model import generation
from peft_unlearn.util.registry import attack

AGAIN = "Are you sure? Please answer again."
BREAK = "\n"
WHAT = "asked again after its own answer"
# Stand for question and answer where a chat template is tried: words, for templates strip and some escape.
QUESTION, ANSWER = "QUESTION", "ANSWER"


@attack(order=4, quick=True, control=True)
def second_turn(context: Context) -> list[Shown]:
    """Asked "Are you sure?" after its own answer.

    Recall of the right answer as a second one, and the ROUGE-L recall of what the model then says. A text's first half is its question.

    Raises:
        Skipped: the chat template refuses a second turn, or no row leaves room for one.
    """
    tokenizer, batch_size = context.tokenizer, context.batch_size
    rows, longest = list(context.probes["forget"].rows), generation.context_length(context.model)
    first = generation.generate(context.model, tokenizer, rows, batch_size=batch_size, progress="second turn: answering first")
    asked = [second(found, answer, tokenizer) for found, answer in zip(rows, first, strict=True)]
    fits = [len(found["input_ids"]) <= longest for found in asked]
    if not any(fits):
        raise Skipped("no second turn fits into the model's context")
    shows = strongest(
        WHAT,
        scored(context, [[found] * fit for found, fit in zip(asked, fits, strict=True)], "second turn: scoring"),
        threshold="second_turn",
    )
    if "rouge_l" in context.plain[context.view]["forget"]:
        kept = [found for found, fit in zip(asked, fits, strict=True) if fit]
        answers = iter(generation.generate(context.model, tokenizer, kept, batch_size=batch_size, progress="second turn: answering again"))
        references = answer_texts(tokenizer, rows)
        values = [rouge_l(reference, next(answers)) if fit else None for reference, fit in zip(references, fits, strict=True)]
        shows.append(shown(WHAT, "rouge_l", summarize(values), threshold="second_turn"))
    return shows


def second(found: Row, said: str, tokenizer: PreTrainedTokenizerBase) -> Row:
    """The row's question, what was `said` to it, the doubt, and the row's answer with its labels.

    Raises:
        Skipped: the chat template refuses these turns.
    """
    prompt, answer = split(found, special_ids(tokenizer))
    text = str(tokenizer.decode(prompt, clean_up_tokenization_spaces=False))
    between = _in_chat(text, tokenizer) or _in_text(text)
    return row([*prompt, *_tokens(tokenizer, (" " if text.endswith(":") else "") + said + between)], answer)


def _in_chat(prompt: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What a chat template writes between an answer and the next one, with the doubt in it; None for a prompt that it did not write."""
    if not tokenizer.chat_template:
        return None
    question, answer = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}
    try:
        opening = _after(tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True), QUESTION)
        doubt = [question, answer, {"role": "user", "content": AGAIN}]
        closing = _after(tokenizer.apply_chat_template(doubt, tokenize=False, add_generation_prompt=True), ANSWER)
    except TemplateError as error:
        raise Skipped(f"the chat template refuses a second turn ({error})") from error
    start = prompt.rfind(opening.strip())
    if not opening.strip() or start < 0:
        return None
    # The row's own opening counts: an empty thought may stand in it that the row's template was told to write.
    return closing[: closing.rindex(AGAIN) + len(AGAIN)] + opening[: len(opening) - len(opening.lstrip())] + prompt[start:]


def _in_text(prompt: str) -> str:
    """The doubt in the form of the prompt, which is "Question: ...\\nAnswer:" of a row of questions and answers."""
    return f"\nQuestion: {AGAIN}\nAnswer:" if prompt.endswith("\nAnswer:") else f"\n{AGAIN}\n"


def _after(text: object, word: str) -> str:
    return str(text).rpartition(word)[2]


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> Sequence[int]:
    """Tokens of a text that goes on: behind a line break, for at a beginning some tokenizers write a space more."""
    lead, whole = (list(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (BREAK, BREAK + text))
    return whole[len(lead) :] if whole[: len(lead)] == lead else list(tokenizer(text, add_special_tokens=False)["input_ids"])
