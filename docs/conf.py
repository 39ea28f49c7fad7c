"""The site: `make docs`. Pages are Markdown, tables and the Python reference come from the package itself."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import peft_unlearn  # noqa: E402

project = "peft-unlearn"
author = "the peft-unlearn authors"
release = version = peft_unlearn.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "package_tables", "plain_docstrings"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"peft-unlearn {release}"

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
highlight_language = "none"  # indented blocks are formulas, commands and pictures

autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "show-inheritance": False}
