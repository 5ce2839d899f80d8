"""Sphinx settings: `sphinx-build -W docs site`."""

from __future__ import annotations

import erllama

project = "erllama"
author = "The erllama authors"
release = erllama.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["*.py"]
html_theme = "furo"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_numpy_docstring = False
# README links out of docs/ work on the repository's pages, not here.
suppress_warnings = ["myst.xref_missing"]
