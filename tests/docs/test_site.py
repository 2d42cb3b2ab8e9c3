"""The site builds without warnings, runs its gallery and its notebook, and contains every public name."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from urllib.parse import urldefrag, urljoin, urlparse

import helpers
import pytest

import indygru_cpu

DOCS = helpers.ROOT / "docs"
GALLERY = sorted(path.stem for path in (DOCS / "gallery").glob("*.py"))
#: `reference` is the specification for tests; `layer` and `stream` are documented by their public names.
WITHOUT_PAGES = {"reference", "layer", "stream"}
#: Modules that need a large package; the build documents them without it.
MOCKED = {"ray", "spark"}
#: Packages of the extra docs.
NEEDED = ("filelock", "sphinx", "myst_nb", "numpydoc", "pydata_sphinx_theme", "sphinx_copybutton", "sphinx_gallery")


def build(folder):
    """Build the site into folder/html: warnings are errors, and every program of the gallery runs."""
    folder.mkdir()
    shutil.rmtree(DOCS / "auto_gallery", ignore_errors=True)
    command = [
        sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-d", folder / "doctrees", DOCS,
        folder / "html",
    ]  # fmt: skip
    environment = helpers.clean_environment()
    run = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=600)
    if run.returncode:
        shutil.rmtree(folder / "html", ignore_errors=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        pytest.skip(f"not installed, and the site needs it: {', '.join(missing)}")
    from filelock import FileLock

    # Workers of pytest-xdist share one build, because sphinx-gallery writes into docs/.
    shared = tmp_path_factory.getbasetemp()
    folder = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "site"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            build(folder)
    assert (folder / "html" / "index.html").exists(), "another worker's build has failed"
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site):
    """The HTML of each page by its path; those that Sphinx makes for its own use are left out."""
    paths = [path.relative_to(site) for path in site.rglob("*.html")]
    return {
        path.as_posix(): (site / path).read_text(encoding="utf-8")
        for path in paths
        if path.parts[0] not in {"_modules", "_static"} and path.stem not in {"genindex", "py-modindex", "search"}
    }


@pytest.fixture(scope="module")
def documented(site):
    """Names of the objects that the site describes."""
    from sphinx.util.inventory import InventoryFile

    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    return {name for kind, objects in inventory.data.items() if kind.startswith("py:") for name in objects}


def links(page, html):
    """Paths, below the site, of the pages to which a page links."""
    targets = (urldefrag(urljoin(page, href)).url for href in re.findall(r'<a [^>]*href="([^"]+)"', html))
    return {target for target in targets if not urlparse(target).scheme}


def public_modules():
    return {info.name for info in pkgutil.iter_modules(indygru_cpu.__path__) if not info.name.startswith("_")}


def test_every_page_is_reached_from_the_home_page(pages):
    assert {"guarantees.html", "reference/layer.html", "the-project/contributing.html"} < pages.keys()
    reached, waiting = set(), {"index.html"}
    while waiting:
        page = waiting.pop()
        reached.add(page)
        waiting |= (links(page, pages[page]) & pages.keys()) - reached
    assert reached == pages.keys()


def test_pages_load_nothing_from_other_sites(pages):
    for page, html in pages.items():
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]+)"|<link[^>]* href="([^"]+)"', html)
        assert not [url for urls in loaded for url in urls if urlparse(url).netloc], page


def test_pages_render_all_markup(pages):
    for page, html in pages.items():
        text = re.sub(r"<(pre|code).*?</\1>", "", html, flags=re.S)
        assert not re.search(r"```|~~~|:::|::</p>|\]\([\w./#]+\)", text), page


def test_reference_has_every_public_name(documented):
    names = {f"indygru_cpu.{name}" for name in indygru_cpu.__all__ if not name.startswith("_")}
    for module in public_modules() - WITHOUT_PAGES:
        names.add(f"indygru_cpu.{module}")
        if module not in MOCKED:
            listed = getattr(importlib.import_module(f"indygru_cpu.{module}"), "__all__", [])
            names |= {f"indygru_cpu.{module}.{name}" for name in listed}
    names |= {"indygru_cpu.ray.predict", "indygru_cpu.spark.predict"}
    assert sorted(names - documented) == []


def test_reference_has_every_method_of_the_layer(documented):
    for owner in (indygru_cpu.IndyGRU, indygru_cpu.StreamPool):
        names = {name for name, value in vars(owner).items() if not name.startswith("_") and callable(value)}
        assert {f"indygru_cpu.{owner.__name__}.{name}" for name in names} <= documented
    assert {"indygru_cpu.IndyGRU.__call__", "indygru_cpu.IndyGRU.load", "indygru_cpu.stream.Stream.push"} <= documented


def test_reference_links_code_that_names_an_object(pages):
    link = r'<a class="reference internal" href="#indygru_cpu.IndyGRU.backward"[^>]*><code[^>]*>(<span[^>]*>)?backward<'
    assert re.search(link, pages["reference/layer.html"])


def test_migration_page_renders_its_code_blocks(pages):
    assert pages["migration.html"].count('<div class="highlight-python notranslate">') == 15


@pytest.mark.parametrize("name", GALLERY)
def test_gallery_page_has_pictures(site, pages, name):
    assert re.search(rf'src="\.\./_images/sphx_glr_{name}_001.png"', pages[f"auto_gallery/{name}.html"])
    assert (site / "_images" / f"sphx_glr_{name}_001.png").stat().st_size > 5000


def test_notebook_page_has_its_results(pages):
    html = pages["notebooks/speakers.html"]
    assert re.search(r"9\d\.\d% of 370 new utterances", html)
    described = re.findall(r'<img alt="([^"]*)" src="\.\./_images/\w+\.png"', html)
    assert len(described) == 3
    assert all(" by " in text for text in described)


def test_notebook_in_the_repository_has_no_output():
    import nbformat

    notebook = nbformat.read(DOCS / "notebooks" / "speakers.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_programs_page_shows_every_example(pages):
    for path in (helpers.ROOT / "examples").glob("*.py"):
        assert f">{path.name}<" in pages["examples.html"]
