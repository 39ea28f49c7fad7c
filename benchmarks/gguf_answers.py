"""Greedy answers to the forget set, side by side: the adapter in transformers, and each GGUF file that `export --gguf` made of it, in llama.cpp.

    peft-unlearn export runs/forgotten --output shipped --gguf f16 q8_0 q4_k_m --before
    python benchmarks/gguf_answers.py runs/forgotten shipped

Prints a table for each question, how many answers of each file are those of transformers to the letter, and the seconds that each took.
"""

import argparse
import json
import time
from pathlib import Path

from peft_unlearn.data.rows import answer_texts
from peft_unlearn.model import generation, llama_cpp
from peft_unlearn.workflows import EvaluateRequest, checks, views
from peft_unlearn.workflows.exported import REPORT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", help="the output folder of a run")
    parser.add_argument("shipped", type=Path, help="the folder that export made of it")
    options = parser.parse_args()

    job = views.prepare(checks.measured(EvaluateRequest(options.adapter)))
    rows, columns, seconds = job.benchmark.probes["forget"].rows, {}, {}

    def ask(view, model):
        began = time.monotonic()
        columns[f"transformers, {view}"] = generation.generate(model, job.tokenizer, rows)
        seconds[f"transformers, {view}"] = time.monotonic() - began

    views.for_each_view(job, ask)
    for kind, file in json.loads((options.shipped / REPORT).read_text(encoding="utf-8"))["files"].items():
        if kind != "lora":
            began = time.monotonic()
            columns[kind.upper()] = llama_cpp.read(options.shipped / file["file"], job.tokenizer, rows).answers
            seconds[kind.upper()] = time.monotonic() - began
    for number, right in enumerate(answer_texts(job.tokenizer, rows)):
        print(f"\n| right | {right} |\n| --- | --- |")
        for name, answers in columns.items():
            print(f"| {name} | {answers[number]} |")
    own = columns["transformers, after"]
    print("\n| | as transformers | seconds |\n| --- | --- | --- |")
    for name, answers in columns.items():
        same = sum(one == other for one, other in zip(answers, own, strict=True))
        print(f"| {name} | {same} of {len(own)} | {seconds[name]:.0f} |")


if __name__ == "__main__":
    main()
