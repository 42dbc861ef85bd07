"""The documentation site in a browser: it fits a desktop and a phone, and search and the chart work.

Needs the site (`pip install '.[docs]' playwright`) and a Chromium of the system.
"""

import functools
import http.server
import importlib.util
import shutil
import threading

import pytest

from tests.site import built

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
PAGES = (
    "index.html", "which-estimator.html", "estimators.html", "tutorials/1_the_trick.html", "reference/expect.html",
    "gallery/index.html",
)  # fmt: skip
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
BROKEN = "[...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.src)"

pytestmark = pytest.mark.long


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The site, served on this machine."""
    if importlib.util.find_spec("playwright") is None or CHROMIUM is None:
        pytest.skip("needs Chromium, and pip install playwright")
    folder = built(tmp_path_factory.mktemp("site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(address):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(params=SIZES)
def page(request, browser):
    """A page of this size. At the end, there was no error in its console, and no request failed."""
    width, height = SIZES[request.param]
    opened, wrong = browser.new_page(viewport={"width": width, "height": height}), []
    opened.on("console", lambda said: said.type == "error" and wrong.append(said.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("response", lambda found: found.status >= 400 and wrong.append(found.url))
    yield opened
    opened.close()
    assert wrong == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_and_its_pictures_load(page, address, name):
    page.goto(f"{address}/{name}", wait_until="networkidle")
    page.evaluate("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    assert page.evaluate(BROKEN) == []
    assert page.evaluate(WIDER) <= 0


def test_search_finds_a_name(page, address):
    page.goto(f"{address}/index.html")
    if page.viewport_size["width"] == SIZES["phone"][0]:  # the box is in the menu
        page.locator("label.nav-overlay-icon").first.click()
    page.locator("input.sidebar-search").fill("measure_total")
    page.locator("input.sidebar-search").press("Enter")
    first = page.locator("ul.search li a").first
    first.wait_for()
    first.click()
    page.wait_for_load_state()
    assert "measure_total" in page.locator("article").inner_text()


def test_the_chart_leads_to_the_reference(page, address):
    page.goto(f"{address}/which-estimator.html")
    page.locator("pre.chart a", has_text="disarm").first.click()
    page.wait_for_url("**#rgrad.disarm")
    assert page.locator("[id='rgrad.disarm']").is_visible()
