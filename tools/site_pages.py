"""A hook of mkdocs.yml: pages of the site from outside docs/, and links to them."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
#: Pages of the repository outside docs/, and their paths in the site.
SITE_PATHS = {
    "README.md": "index.md",
    "SECURITY.md": "the-project/security.md",
    "CONTRIBUTING.md": "the-project/contributing.md",
    "CHANGELOG.md": "the-project/changelog.md",
    "benchmarks/README.md": "the-project/benchmarks.md",
    "tools/README.md": "the-project/tools.md",
    "indygru_cpu/_engine/csrc/README.md": "the-project/kernels.md",
    "indygru_cpu/data/README.md": "the-project/data.md",
}
SOURCES = {site: source for source, site in SITE_PATHS.items()}
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    pages = (
        File.generated(config, site, content=(ROOT / source).read_text(encoding="utf-8"))
        for source, site in SITE_PATHS.items()
    )
    return Files([*files, *pages])


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Replace links between files of the repository by links between pages of the site."""
    page_path = page.file.src_uri
    source = SOURCES.get(page_path, f"docs/{page_path}")

    def site_link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        site = SITE_PATHS.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(site, posixpath.dirname(page_path) or '.')}"

    return LINK.sub(site_link, markdown)


def on_page_content(html: str, **_: object) -> str:
    """Remove one of the two colons that introduce code in docstrings, which is markup."""
    return html.replace("::</p>", ":</p>")
