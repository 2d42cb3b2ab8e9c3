"""A Sphinx extension: single backticks in docstrings are code, and links where they name an object of the reference."""

from __future__ import annotations

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.environment import BuildEnvironment

#: As the value of `default_role`.
ROLE = "py:code"


def keep_code(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.TextElement | None:
    """Leave code that names no object as it is. Without this, such a name would be a broken reference."""
    return content if (node["refdomain"], node["reftype"]) == tuple(ROLE.split(":")) else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension to Sphinx."""
    app.add_role_to_domain(*ROLE.split(":"), PyXRefRole())
    app.connect("missing-reference", keep_code)
    return {"parallel_read_safe": True}
