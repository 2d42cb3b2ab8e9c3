"""A hook of mkdocs.yml: pages of the site that do not lie in docs/, and links to them."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
#: Pages of the repository, and where they are in the site.
ELSEWHERE = {
    "README.md": "index.md",
    "SECURITY.md": "the-project/security.md",
    "CONTRIBUTING.md": "the-project/contributing.md",
    "CHANGELOG.md": "the-project/changelog.md",
    "indygru_cpu/_engine/csrc/README.md": "the-project/kernels.md",
    "indygru_cpu/data/README.md": "the-project/data.md",
}
IN_REPOSITORY = {site: source for source, site in ELSEWHERE.items()}
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    there = (
        File.generated(config, site, content=(ROOT / source).read_text(encoding="utf-8"))
        for source, site in ELSEWHERE.items()
    )
    return Files([*files, *there])


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turn links that hold in the repository into those that hold in the site."""
    here = page.file.src_uri
    source = IN_REPOSITORY.get(here, f"docs/{here}")

    def of_site(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        site = ELSEWHERE.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(site, posixpath.dirname(here) or '.')}"

    return LINK.sub(of_site, markdown)


def on_page_content(html: str, **_: object) -> str:
    """Docstrings announce code by two colons, one of which is markup."""
    return html.replace("::</p>", ":</p>")
