"""Write into a new folder what `push` would upload, without local paths; or GGUF files for llama.cpp, Ollama and LM Studio, and measure them."""

import argparse
from collections.abc import Mapping
from typing import Any

from peft_unlearn.cli import options as fields
from peft_unlearn.cli import screen
from peft_unlearn.workflows import ExportRequest, export

SHOWN = ("loss", "extraction_strength", "verbatim", "rouge_l")  # of the metrics in gguf.json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    fields.add(parser, ExportRequest, "adapter")
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder")
    for name in ("base", "below"):
        fields.add(parser, ExportRequest, name)
    fields.add(parser, ExportRequest, "gguf", nargs="+", metavar="TYPE")
    for name in ("llama_cpp", "before", "evaluate"):
        fields.add(parser, ExportRequest, name)


def main(options: argparse.Namespace) -> None:
    result = export(fields.made(options, ExportRequest))
    print(f"Exported to {result.folder}: {', '.join(result.files)}")
    if result.gguf is not None and "results" in result.gguf:
        _show(result.gguf)
    if result.not_evaluated is not None:
        print(f"Not evaluated: {result.not_evaluated}")


def _show(found: Mapping[str, Any]) -> None:
    """What the files still say, beside the report of the adapter, which transformers measured."""
    from peft_unlearn import report

    results = {
        name: {view: {metric: of_view[metric] for metric in SHOWN if metric in of_view} for view, of_view in of_set.items()}
        for name, of_set in found["results"].items()
    }
    console = screen.console()
    console.print(report.table({"results": results}, console.width))
    for kind, alike in found["rows_read_alike"].items():
        rows = results["forget"][kind]["verbatim"]["rows"]
        whole = sum(value == 1 for value in rows if value is not None)
        console.print(
            f"{kind}: {whole} of {len(rows)} forget rows come back word for word; llama.cpp reads {alike} of {found['rows']} rows alike."
        )
    console.print(
        "Every metric and the seconds of each step are in gguf.json there; before and adapter are those of the adapter's own report."
    )
