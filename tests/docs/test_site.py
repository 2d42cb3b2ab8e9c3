"""The site builds without warnings and contains every public name."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
import subprocess
import sys

import helpers
import pytest

import indygru_cpu

#: `reference` is the specification for tests; the layer and the stream are documented by their public names.
WITHOUT_PAGES = {"reference", "cell", "layer", "stream"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("mkdocs and mkdocstrings, of the extra docs, are not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    run = subprocess.run(command, cwd=helpers.ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return folder


def test_home_page_links_to_every_page(site):
    home = (site / "index.html").read_text(encoding="utf-8")
    pages = [path.parent.relative_to(site).as_posix() for path in site.rglob("index.html")]
    assert {"guarantees", "reference/layer", "the-project/contributing"} < set(pages)
    for page in set(pages) - {"."}:
        assert f'href="{page}/"' in home


def test_reference_has_every_public_name(site):
    pages = "".join(path.read_text(encoding="utf-8") for path in (site / "reference").rglob("index.html"))
    modules = {info.name for info in pkgutil.iter_modules(indygru_cpu.__path__) if not info.name.startswith("_")}
    names = {name for name in indygru_cpu.__all__ if not name.startswith("_")} | modules - WITHOUT_PAGES
    documented = set(re.findall(r'<h\d id="indygru_cpu\.(\w+)"', pages))
    assert documented >= names
    for method in ["__call__", "forward", "ragged", "save", "load"]:
        assert f'id="indygru_cpu.IndyGRU.{method}"' in pages
    assert "::</p>" not in pages


def test_migration_page_renders_its_code_blocks(site):
    page = (site / "migration" / "index.html").read_text(encoding="utf-8")
    assert page.count('<div class="highlight">') == page.count("<pre>") == 15
    assert "```" not in page
