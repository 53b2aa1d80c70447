"""The documentation site: `make docs` builds it, with warnings as errors."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_site"))
sys.path.insert(0, str(HERE.parent / "src"))

import evenflow  # noqa: E402  # from this folder, whatever is installed

project = "Evenflow"
author = "The Evenflow authors"
project_copyright = "The Evenflow authors, Apache License 2.0"
version = release = evenflow.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "commands", "tables", "docstrings", "loglines"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_site", "_static", "adr/README.md", "pictures"]  # adr/index.md includes it
root_doc = "index"
language = "en"
nitpicky = True
# What a signature names of the standard library has no page here, nor has a type variable.
nitpick_ignore_regex = [
    ("py:.*", r"(collections\.abc|contextlib|datetime|os|pathlib)\.\w+"),
    ("py:.*", r"(evenflow\.[\w.]+\.)?[A-Z][0-9]?"),
]
# Nor have types that a user hands on and does not look into.
_HANDED_ON = ("EventSpec", "Reader", "Writer", "Running", "Signal", "Joinable", "apsw.Connection")
nitpick_ignore = [("py:class", name) for name in (*_HANDED_ON, "AbstractAsyncContextManager")]

myst_heading_anchors = 3
myst_enable_extensions = ["deflist", "attrs_inline"]

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_use_type_comments = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries = False

html_theme = "furo"
html_title = f"Evenflow {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_permalinks_icon = "#"
pygments_style = "friendly"
pygments_dark_style = "native"
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
