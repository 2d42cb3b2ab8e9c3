"""A Sphinx extension: pages of the site from files outside docs/, and links to them."""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
#: Pages whose text is that of a file of the repository, followed by the text of the page's own file in docs/.
SOURCES = {
    "index.md": "README.md",
    "the-project/security.md": "SECURITY.md",
    "the-project/contributing.md": "CONTRIBUTING.md",
    "the-project/changelog.md": "CHANGELOG.md",
    "the-project/benchmarks.md": "benchmarks/README.md",
    "the-project/tools.md": "tools/README.md",
    "the-project/kernels.md": "indygru_cpu/_engine/csrc/README.md",
    "the-project/data.md": "indygru_cpu/data/README.md",
}
PAGES = {source: page for page, source in SOURCES.items()}
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)")
#: A space at which the narrow columns of tables would break a target, as in "(≤ 0.85)".
TARGET_SPACE = re.compile(r"(?<=[≤≥]) (?=\d)")


def site_links(text: str, page: str) -> str:
    """Replace links between files of the repository by links between pages of the site.

    Parameters
    ----------
    text : str
        Markdown with links relative to the file from which it was read.
    page : str
        Path of the page below docs/.

    Returns
    -------
    str
        The text with links relative to the page.
    """
    source = SOURCES.get(page, f"docs/{page}")

    def site_link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        target_page = PAGES.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(target_page, posixpath.dirname(page) or '.')}"

    return LINK.sub(site_link, text)


def example_sections() -> str:
    """Return a section with the source of each program in examples/, whose title is the start of its docstring."""
    sections = []
    for path in sorted((ROOT / "examples").glob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or path.stem
        title = re.split("[:.,]", docstring, maxsplit=1)[0]
        options = f":language: python\n:caption: {path.name}\n"
        sections.append(f"\n## {title}\n\n:::{{literalinclude}} ../examples/{path.name}\n{options}:::\n")
    return "".join(sections)


def read_page(app: Sphinx, docname: str, content: list[str]) -> None:
    """Put the file of the repository before the page's own text, and adapt the links of a page in Markdown."""
    page = Path(app.env.doc2path(docname)).relative_to(app.srcdir).as_posix()
    if not page.endswith(".md"):
        return
    if page in SOURCES:
        source = ROOT / SOURCES[page]
        app.env.note_dependency(str(source))
        content[0] = f"{source.read_text(encoding='utf-8')}\n{content[0]}"
    if page == "examples.md":
        content[0] += example_sections()
    content[0] = TARGET_SPACE.sub("\N{NO-BREAK SPACE}", site_links(content[0], page))


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension to Sphinx."""
    app.connect("source-read", read_page)
    return {"parallel_read_safe": True}
