"""The site: pip install ".[docs]" && python -m sphinx -W --keep-going -n docs site."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import matplotlib
from sphinx.application import Sphinx

import indygru_cpu

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))
matplotlib.use("Agg")

project = "indygru_cpu"
author = copyright = "The indygru_cpu developers"
version = release = indygru_cpu.__version__
extensions = [
    "code_links",
    "myst_nb",
    "numpydoc",
    "repository_pages",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
# sphinx-gallery makes pages of the programs in gallery/, and notebooks for downloads.
exclude_patterns = ["gallery/*", "auto_gallery/*.ipynb"]
nitpicky = True
# numpydoc makes a link of an attribute that has a docstring of its own; this one is documented in place.
nitpick_ignore = [("py:obj", "gates")]
default_role = "py:code"
# Blocks without a language are formulas and commands.
highlight_language = "none"
copybutton_exclude = ".gp, .go"  # prompts and results of examples are not copied

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120

# Docstrings state types; annotations in signatures would repeat them.
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "special-members": "__call__"}
# These packages are large, and the signatures and docstrings of the modules that use them do not depend on them.
autodoc_mock_imports = [name for name in ("pyspark", "ray") if importlib.util.find_spec(name) is None]
autosummary_generate = False
numpydoc_class_members_toctree = False
numpydoc_show_inherited_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "abort_on_example_error": True,
    "within_subsection_order": "FileNameSortKey",
    "capture_repr": (),
    "write_computation_times": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1e9,  # pages do not depend on the speed of the machine
    "download_all_examples": False,
}

# The list of a page's objects shows "load()", not "IndyGRU.load()".
toc_object_entries_show_parents = "hide"

html_title = project
html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
}


def skip_field(app: Sphinx, kind: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """Skip fields of named tuples: the docstring of the class describes them."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> None:
    """Connect the functions of this file to Sphinx."""
    app.connect("autodoc-skip-member", skip_field)
