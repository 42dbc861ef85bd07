"""The documentation site builds without a warning, and its links, pictures and reference are complete."""

import re
from collections import Counter
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

import rgrad
from tests.site import DOCS, ROOT, built

WRITTEN = ("reference/", "gallery/", "tutorials/")  # by .docs/pages.py
PAGES = [p for p in sorted(DOCS.rglob("*.md")) if not p.relative_to(DOCS).as_posix().startswith(WRITTEN)]
BLOCKS = [
    (page.relative_to(DOCS).as_posix(), block)
    for page in PAGES
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
]


class Page(HTMLParser):
    """The anchors of a page, what it links to, and its tables."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.targets, self.open, self.bare_tables, self.viewport = set(), [], [], 0, False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        self.targets += [found[name] for name in ("href", "src") if found.get(name)]
        self.viewport |= tag == "meta" and found.get("name") == "viewport"
        if tag == "div":
            self.open.append(found.get("class") or "")
        self.bare_tables += tag == "table" and not any("table-wrapper" in of for of in self.open)

    def handle_endtag(self, tag):
        if tag == "div":
            self.open.pop()


def broken(folder):
    """Links and pictures of the pages of a folder that lead nowhere. The network is not asked."""
    pages = {path: Page(path) for path in sorted(folder.rglob("*.html"))}
    wrong = []
    for path, page in pages.items():
        for target in page.targets:
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            file = (path.parent / unquote(name.partition("?")[0])).resolve() if name else path
            lost = anchor and file in pages and unquote(anchor) not in pages[file].ids
            if not file.is_file() or lost:
                wrong.append(f"{path.relative_to(folder)}: {target}")
    return wrong


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return built(tmp_path_factory.mktemp("site"))


def test_the_site_builds_and_nothing_is_broken(site):
    assert len(list(site.rglob("*.html"))) > 60
    assert broken(site) == []


def test_every_public_name_has_an_entry(site):
    ids = {name for path in (site / "reference").glob("*.html") for name in Page(path).ids}
    assert {name for name in rgrad.__all__ if not {f"rgrad.{name}", f"module-rgrad.{name}"} & ids} == set()
    text = "".join(path.read_text() for path in (site / "reference").glob("*.html"))
    assert not re.search(r" at 0x[0-9a-f]{6}|:param |:raises |Alias for field", text)
    assert text.count('class="rubric">Example</p>') == len(rgrad.__all__) - 1  # all but the mapping ESTIMATORS


def test_names_are_links(site):
    chart = re.search(
        r"<pre[^>]*>(?:(?!</pre>).)*x is discrete.*?</pre>", (site / "which-estimator.html").read_text(), re.S
    )[0]
    assert set(re.findall(r'#rgrad\.(\w+)"', chart)) >= {"enumerated", "disarm", "leave_one_out", "moving_average"}
    table = (site / "estimators.html").read_text()
    for name in rgrad.ESTIMATORS:
        assert re.search(
            rf'#rgrad\.{name.partition("+")[0]}"[^>]*><code[^>]*><span class="pre">{re.escape(name)}<', table
        ), name


def test_each_section_is_on_one_page(site):
    """The recipes, the README (apart from its own list of links), and the READMEs of all experiments."""
    del site  # some pages are written by the build
    found = Counter()
    for page in DOCS.rglob("*.md"):
        for path, options in re.findall(r"^```\{include\} /\.\./(\S+)\n((?::.*\n)*)", page.read_text(), re.M):
            section = re.search(r'^:start-after: "## (.*)"$', options, re.M)
            found[path, section[1] if section else ""] += 1
    for name, without in (("README.md", {"Links"}), ("rgrad/RECIPES.md", set())):
        sections = set(re.findall(r"^## (.*)$", (ROOT / name).read_text(), re.M)) - without
        assert {section for section in sections if found[name, section] != 1} == set()
    for path in sorted((ROOT / "experiments").glob("*/README.md")):
        assert found[path.relative_to(ROOT).as_posix(), ""] == 1, path


def test_pages_fit_a_phone(site):
    """Pages scale with the screen, and wide tables scroll inside the page."""
    for path in site.rglob("*.html"):
        page = Page(path)
        assert page.viewport, path
        if path.name not in ("genindex.html", "py-modindex.html"):
            assert page.bare_tables == 0, path


@pytest.mark.parametrize(("name", "block"), BLOCKS, ids=[name for name, _ in BLOCKS])
def test_code_blocks_run(name, block, capsys):
    namespace = {}
    exec(compile(block, name, "exec"), namespace)
    if "fitted" in namespace:
        loss = namespace["fitted"].trace.loss
        assert loss[-1] < loss[0] - 1.5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_what_is_named_exists(page):
    for name in re.findall(r"`rgrad\.([a-zA-Z]\w*)", page.read_text()):
        assert hasattr(rgrad, name), name


def test_broken_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="x"><a href="b.html#y">1</a><a href="#z">2</a><img src="c.png"><a href="d.html">3</a>'
    )
    (tmp_path / "b.html").write_text('<p id="y"><a href="a.html#x">1</a><a href="https://example.org">2</a>')
    assert broken(tmp_path) == ["a.html: #z", "a.html: c.png", "a.html: d.html"]
