"""A request as the command that makes it, which a report names."""

import dataclasses
import json
import math
import shlex
from collections.abc import Mapping
from typing import Any

from peft_unlearn.workflows.requests import AuditRequest, EvaluateRequest, option


def command(name: str, request: EvaluateRequest | AuditRequest) -> str:
    """The command `name` that makes this request again."""
    words = ["peft-unlearn", name, str(request.model)]
    for f in dataclasses.fields(request):
        value = getattr(request, f.name)
        if f.name != "model" and value is not None and value is not False and value not in ((), [], {}):
            words += [f"--{option(f)}", *_words(f.name, value)]
    return shlex.join(words)


def _words(name: str, value: Any) -> list[str]:
    """A field's value as it is written behind its option."""
    if value is True:
        return []
    if isinstance(value, Mapping):
        return [f"{key}={_yaml(one)}" for key, one in value.items()] if name == "settings" else [_yaml(value)]
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]


def _yaml(value: Any) -> str:
    """A value as YAML on a line: text as it is and others as JSON, where YAML reads them back as that."""
    import yaml  # which takes longer than all else here

    text = value if isinstance(value, str) else json.dumps(value)
    try:
        if yaml.safe_load(text) == value:
            return text
    except yaml.YAMLError:
        pass
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf).removesuffix("\n").removesuffix("\n...")
