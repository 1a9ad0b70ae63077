# SPDX-License-Identifier: Apache-2.0
"""Sphinx's configuration: python -m sphinx -W docs docs/_build."""

import tvm_ffi_object_loader

project = "tvm-ffi-object-loader"
copyright = "the contributors of tvm-ffi-object-loader"
version = release = tvm_ffi_object_loader.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
default_role = "py:obj"  # single backticks in docstrings
html_theme = "furo"
html_title = project
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_google_docstring = False
