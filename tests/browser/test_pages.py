"""The pages in a real browser: `make test-browser`. The pictures are for people to look at."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from chromium import Chromium, Page
from lab import Lab
from server import Server, settings_of

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

PHONE: Final = (375, 812)
DESKTOP: Final = (1280, 900)
LONG_NAME: Final = "a-name-which-goes-on-and-on-so-that-a-phone-has-to-break-it-somewhere-1.2.3-unstable-2026-01-01"
HOSTILE: Final = "<img src=x onerror=alert(1)>\"'&.txt"

# Whatever is wider than the window, by its tag and class. What is cut off by a parent on purpose is not.
OVERFLOWING: Final = """
[...document.querySelectorAll("body *")]
  .filter(one => one.getBoundingClientRect().right > innerWidth + 0.5 && !one.closest(".hidden, .skip"))
  .map(one => `${one.tagName} ${one.className}`)
"""
# Relative luminances and their ratio as WCAG 2 defines them, for every element with text of its own.
LOW_CONTRAST: Final = """
(() => {
  const channel = value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = one => {
    for (; one; one = one.parentElement) {
      const colour = parts(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
  };
  const low = [];
  for (const one of document.querySelectorAll("body *")) {
    if (one.closest(".hidden, .skip, script, svg")) continue;
    if (![...one.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
    const [a, b] = [luminance(parts(getComputedStyle(one).color)), luminance(behind(one))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) low.push(`${one.tagName} ${one.className} ${ratio.toFixed(2)}`);
  }
  return [...new Set(low)];
})()
"""
UNNAMED: Final = """
[...document.querySelectorAll("a, button, input:not([type=hidden])")]
  .filter(one => !(one.getAttribute("aria-label") || one.textContent).trim()).map(one => one.outerHTML)
"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed: run `make test-browser`, which installs it")
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """URLs of pages by name."""
    root = tmp_path_factory.mktemp("site")
    (root / "lab").mkdir()
    with Lab(root / "lab") as lab:
        closure = lab.build()
        lab.start_daemon()
        tree = lab.add(_tree(root / "python3-3.11.2"))
        for name in ("firefox-128.0.3", "python3-3.11.2-doc", LONG_NAME):
            (root / name).write_text(name)
            long = lab.add(root / name)
        with Server(root, lab.env, settings_of(lab, lab.secret_key("cache.example.org-1"))) as server:
            urls = {
                "home": "/",
                "search": "/search?q=p",
                "nothing": "/search?q=nothing-like-it",
                "path": f"/path/{closure.top.hash_part}",
                "tree": f"/path/{tree.hash_part}",
                "long": f"/path/{long.hash_part}",
                "directory": f"/serve/{tree.hash_part}/lib/python3.11/",
            }
            yield {name: server.url + path for name, path in urls.items()}


def _tree(root: Path) -> Path:
    for directory, count in (("bin", 4), ("lib/python3.11", 60), ("lib/python3.11/asyncio", 30), ("share/man", 12)):
        (root / directory).mkdir(parents=True)
        for number in range(count):
            (root / directory / f"file-{number}").write_bytes(bytes(500 * number * number))
    (root / "bin" / "python3").symlink_to("file-1")
    (root / "bin" / "file-1").chmod(0o755)
    (root / HOSTILE).write_text("hi")
    (root / "lib" / "python3.11" / HOSTILE).write_text("hi")
    return root


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("name", ["home", "search", "nothing", "path", "tree", "long", "directory"])
def test_a_page_is_legible(
    chromium: Chromium, site: dict[str, str], name: str, size: tuple[int, int], *, dark: bool
) -> None:
    page = chromium.open(site[name], width=size[0], height=size[1], dark=dark)
    page.screenshot(f"{name}-{'phone' if size == PHONE else 'desktop'}-{'dark' if dark else 'light'}")
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    assert page.run(OVERFLOWING) == []
    assert page.run(LOW_CONTRAST) == []
    assert page.run(UNNAMED) == []
    assert page.run("document.querySelectorAll('h1').length") == 1
    assert page.requests == [site[name]]
    assert page.complaints == []


@pytest.mark.parametrize("name", ["home", "search", "tree", "directory"])
def test_a_page_lacks_only_copy_buttons_without_scripts(chromium: Chromium, site: dict[str, str], name: str) -> None:
    with_scripts = chromium.open(site[name])
    buttons = with_scripts.run("document.querySelectorAll('.copy').length")
    with_scripts.run("document.querySelectorAll('.copy').forEach(one => one.remove())")
    without = chromium.open(site[name], scripts=False)
    without.screenshot(f"{name}-without-scripts")
    assert without.run("document.querySelectorAll('.copy').length") == 0
    assert without.run("document.body.innerText") == with_scripts.run("document.body.innerText")
    assert (buttons > 0) == (name in ("home", "tree"))


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_a_search_needs_only_a_keyboard(chromium: Chromium, site: dict[str, str], *, scripts: bool) -> None:
    page = chromium.open(site["home"], scripts=scripts)
    tab_to(page, "input")
    page.type("firefox")
    page.go_by_pressing("Enter")
    assert page.run("location.pathname + location.search") == "/search?q=firefox"
    assert page.run("[...document.querySelectorAll('.path-link .name')].map(one => one.textContent)") == [
        "firefox-128.0.3"
    ]


def test_directories_open_without_scripts(chromium: Chromium, site: dict[str, str]) -> None:
    page = chromium.open(site["tree"], scripts=False)
    page.run("document.querySelector('details:not([open]) > summary').focus()")
    page.press("Enter")
    assert page.run("document.activeElement.parentElement.open")


@pytest.mark.parametrize("secure", [True, False], ids=["clipboard", "no clipboard"])
def test_a_copy_button_copies_and_says_so(chromium: Chromium, site: dict[str, str], *, secure: bool) -> None:
    page = chromium.open(site["home"])
    page.call("Page.bringToFront")
    if not secure:  # as where a page comes without TLS from another machine
        page.run("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    # What the page put on the clipboard, as whoever pastes it gets it: into a field of this page.
    copied = page.run("document.querySelector('[data-copy=\"nix.conf\"] code').textContent")
    tab_to(page, "[data-copy='nix.conf'] button")
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("Enter")
    page.run("new Promise(done => { const look = () => said.textContent ? done() : setTimeout(look, 10); look(); })")
    assert page.run("document.getElementById('said').textContent") == "Copied: nix.conf"
    page.screenshot(f"home-copied-{'clipboard' if secure else 'no-clipboard'}")
    page.run("""{ const field = document.createElement("textarea"); document.body.append(field); field.focus() }""")
    page.call("Input.dispatchKeyEvent", type="keyDown", key="v", code="KeyV", modifiers=2, commands=["paste"])
    assert page.run("document.querySelector('textarea').value") == copied
    assert page.complaints == []


def test_a_page_prints_without_what_paper_cannot_do(chromium: Chromium, site: dict[str, str]) -> None:
    page = chromium.open(site["home"], dark=True)
    page.call("Emulation.setEmulatedMedia", media="print")
    page.screenshot("home-print")
    assert page.run("getComputedStyle(document.querySelector('.copy')).display") == "none"
    assert page.run("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the element has the focus."""
    for _ in range(60):
        page.press("Tab")
        if page.run(f"document.activeElement.matches({selector!r})"):
            return
    pytest.fail(f"Tab never reaches {selector}")
