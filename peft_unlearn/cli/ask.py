"""Open a local page that asks the model before, the model after and a never-seen model the same question, with the report beside it."""

import argparse
import importlib.util
import os
from html import escape
from typing import TYPE_CHECKING, Any

from peft_unlearn.cli import evaluate
from peft_unlearn.cli import options as fields
from peft_unlearn.util.errors import UserError
from peft_unlearn.workflows import AskRequest, ask

if TYPE_CHECKING:
    from peft_unlearn.workflows import AskResult

MEANING = {"before": "before: the adapter off", "after": "after: the adapter on", "never_seen": "never-seen: never saw the forget set"}
LONGEST = 512  # tokens of an answer
NARROW = 300  # pixels of a box: on a telephone each has a line of its own
STYLE = """
.gradio-container { width: 100%; max-width: 1200px !important; margin: 0 auto !important; }
iframe.report { width: 100%; height: 75vh; border: 1px solid #8884; border-radius: 8px; background: white; }
footer { display: none !important; }
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for name in ("model", "base", "never_seen"):
        fields.add(parser, AskRequest, name)
    fields.add(parser, AskRequest, "settings", nargs="+", metavar="KEY=VALUE")
    parser.add_argument("--port", type=int, default=7860, help="of this machine, where the page is served (default 7860)")


def main(options: argparse.Namespace) -> None:
    if importlib.util.find_spec("gradio") is None:
        raise UserError("ask: gradio is not installed, run pip install 'peft-unlearn[ask]'.")
    result = ask(evaluate.read(options, AskRequest))
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing of what is asked leaves this machine
    made = page(result)
    try:
        made.launch(server_name="127.0.0.1", server_port=options.port, css=STYLE, quiet=True, prevent_thread_lock=True)
    except OSError as error:
        raise UserError(f"port: {options.port} cannot be served on; write another one as --port.") from error
    print(f"Open http://127.0.0.1:{options.port} in a browser; Ctrl-C ends it. Nobody else can see it, and nothing of it is kept.")
    made.block_thread()


def page(result: "AskResult") -> Any:
    """The page, as gradio's Blocks: a question, an answer of each model beside each other, and the report."""
    import gradio

    with gradio.Blocks(title=f"peft-unlearn: {result.name}", analytics_enabled=False) as made:
        gradio.Markdown(f"## {escape(result.name)}\nThe same question to every model. Answers are greedy: each model's likeliest words.")
        question = gradio.Textbox(label="Question", lines=2, placeholder="Ask for something that was to be forgotten", autofocus=True)
        with gradio.Row():
            form = gradio.Radio(["a question", "a text to go on with"], value="a question", label="This is", scale=2, min_width=NARROW)
            most = gradio.Slider(8, LONGEST, value=64, step=8, label="Tokens at most", scale=2, min_width=NARROW)
            button = gradio.Button("Ask", variant="primary", scale=1)
        with gradio.Row():
            boxes = [gradio.Textbox(label=MEANING[view], lines=4, interactive=False, min_width=NARROW) for view in result.views]
        if result.page is not None:
            with gradio.Accordion("Report", open=True):
                gradio.HTML(f'<iframe class="report" title="report" srcdoc="{escape(result.page.read_text(encoding="utf-8"))}"></iframe>')

        def answer(text: str, how: str, tokens: float) -> list[str]:
            try:
                found = result.answers(text, how == "a question", int(tokens))
            except UserError as error:
                raise gradio.Error(str(error), print_exception=False) from error
            return [found[view] for view in result.views]

        for event in (button.click, question.submit):
            event(answer, [question, form, most], boxes)
    return made
