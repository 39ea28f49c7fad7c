"""Directives that write tables from the package: `commands`, `recipe-keys`, `methods`, `parts ROOM` and `modules ROOM`."""

from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import facts
import peft_unlearn
from peft_unlearn.config import methods
from peft_unlearn.config.keys import keys

PACKAGE = Path(peft_unlearn.__file__).parent


def code(value: Any) -> str:
    return f"`{value}`" if str(value) else ""


def cell(text: Any) -> str:
    """Text for a cell of a Markdown table, taken as it stands."""
    escaped = str(text)
    for character in "\\`*_[]<>{}$|":
        escaped = escaped.replace(character, "\\" + character)
    return " ".join(escaped.split())


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["", *("| " + " | ".join(line) + " |" for line in lines), ""]


class Written(SphinxDirective):
    """A directive whose content is Markdown that `write` makes."""

    def write(self) -> list[str]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        holder = nodes.container()
        self.state.nested_parse(StringList(self.write(), source=self.get_source_info()[0]), self.content_offset, holder)
        return list(holder.children)


class Commands(Written):
    def write(self) -> list[str]:
        lines = []
        for name, parser in facts.parsers().items():
            usage = parser.usage or f"peft-unlearn {name} " + " ".join(self.brief(action) for action in facts.options(parser))
            lines += ["", f"**{name}**", "", cell(parser.description), "", "```text", usage, "```"]
            rows = [[self.names(action), cell(self.help(action))] for action in facts.options(parser)]
            lines += table(["option", "what it does"], rows) if rows else []
        return lines

    @staticmethod
    def brief(action: Any) -> str:
        value = action.metavar or action.dest.upper()
        if not action.option_strings:
            return f"[{value} ...]" if action.nargs == "*" else value
        shown = action.option_strings[0] if action.nargs == 0 else f"{action.option_strings[0]} {value}"
        return shown if action.required else f"[{shown}]"

    @staticmethod
    def names(action: Any) -> str:
        if not action.option_strings:
            return code(action.metavar or action.dest)
        return code(", ".join(action.option_strings) + ("" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"))

    @staticmethod
    def help(action: Any) -> str:
        text = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
        return f"{text}: {', '.join(map(str, action.choices))}" if action.choices else text


class RecipeKeys(Written):
    def write(self) -> list[str]:
        ours = set(facts.own_keys())
        groups: dict[bool, list[list[str]]] = {True: [], False: []}
        for name, key in keys().items():
            default = "*by method*" if name in methods.COMMON else code("" if key.default is None else key.default)
            groups[name in ours].append([code(name), default, cell(key.help)])
        heads = ["key", "default", "what it does"]
        return ["", "**Ours**", *table(heads, groups[True]), "", "**Of transformers and TRL**", *table(heads, groups[False])]


class Methods(Written):
    def write(self) -> list[str]:
        common = ", ".join(code(f"{key}: {value}") for key, value in methods.COMMON.items())
        rows = [
            [
                code(name),
                cell(method.help),
                ", ".join(code(f"{key}: {value}") for key, value in method.settings.items()),
                ", ".join(f"arXiv {paper}" for paper in method.papers),
            ]
            for name, method in methods.METHODS.items()
        ]
        with_stop = methods.defaults(methods.AUTO, "auto")
        early = sorted({key for name in methods.METHODS for key in facts.with_targets(name)})
        lines = [f"All methods: {common}.", *table(["method", "what it is", "sets", "source"], rows)]
        lines += [f"`method: auto` is {code(methods.AUTO)}. With `stop_at`, {', '.join(map(code, methods.OURS))} set instead:", ""]
        return lines + table(["key", "with `stop_at`"], [[code(key), code(with_stop[key])] for key in early])


class Parts(Written):
    required_arguments = 1

    def write(self) -> list[str]:
        rows = [
            [
                code(name),
                cell(part.help),
                ", ".join(code(f"{key}: {value}") for key, value in part.parameters.items()),
                ", ".join(f"arXiv {paper}" for paper in part.papers),
            ]
            for name, part in facts.REGISTRIES[self.arguments[0]].items()
        ]
        return table(["name", "what it is", "parameters", "source"], rows)


class Modules(Written):
    """The public modules of a room: their docstrings and those of what they define."""

    required_arguments = 1

    def write(self) -> list[str]:
        folder = PACKAGE / self.arguments[0]
        names = [f"peft_unlearn.{self.arguments[0]}.{path.stem}" for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")]
        lines: list[str] = []
        for name in [f"peft_unlearn.{self.arguments[0]}", *names]:
            members = [] if name.count(".") > 1 else ["   :no-members:"]
            lines += ["", f"**{name}**", "", "```{eval-rst}", f".. automodule:: {name}", *members, "```"]
        return lines


def setup(app: Sphinx) -> dict[str, Any]:
    for name, directive in {
        "commands": Commands,
        "recipe-keys": RecipeKeys,
        "methods": Methods,
        "parts": Parts,
        "modules": Modules,
    }.items():
        app.add_directive(name, directive)
    return {"parallel_read_safe": True}
