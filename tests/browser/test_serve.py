"""A site inside a store path, in a real browser: it is shown, and it can do nothing."""

import shutil
from pathlib import Path
from typing import Final

import pytest
from chromium import Chromium
from lab import Lab
from server import Server, settings_of

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

PAGE: Final = """<!DOCTYPE html>
<title>harmless</title>
<link rel="stylesheet" href="style.css">
<style>p { color: rgb(4, 5, 6) }</style>
<p>A page</p>
<img id="picture" src="picture.svg">
<script>document.title = "inline"</script>
<script src="script.js"></script>
<script type="module" src="script.js"></script>
<img src="missing.png" onerror="document.title = 'handler'">
<svg onload="document.title = 'svg'"></svg>
<iframe src="../../"></iframe>
<object data="other.html"></object>
<form action="/nix-cache-info"><button>send</button></form>
<a id="sub" href="sub/">sub</a>
"""


def test_a_site_in_the_store_is_shown_and_runs_nothing(daemon: Lab, tmp_path: Path) -> None:
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed: run `make test-browser`, which installs it")
    site = tmp_path / "site"
    (site / "sub").mkdir(parents=True)
    (site / "index.html").write_text(PAGE)
    (site / "sub" / "index.html").write_text("<title>below</title><link rel=stylesheet href=../style.css><p>Below</p>")
    (site / "style.css").write_text("body { background: rgb(1, 2, 3) }")
    (site / "script.js").write_text("document.title = 'file'")
    (site / "other.html").write_text("other")
    (site / "picture.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    path = daemon.add(site)
    with Server(tmp_path, daemon.env, settings_of(daemon)) as server, Chromium(tmp_path / "browser") as chromium:
        page = chromium.open(f"{server.url}/serve/{path.hash_part}/")
        # Its own styles and pictures are there, from a file and from the page.
        assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(1, 2, 3)"
        assert page.run("getComputedStyle(document.querySelector('p')).color") == "rgb(4, 5, 6)"
        assert page.run("document.querySelector('#picture').naturalWidth") == 9
        # No script of it has run, and it is nobody.
        assert page.run("document.title") == "harmless"
        assert page.run("window.origin") == "null"
        asked = {url.removeprefix(server.url) for url in page.requests}
        assert not any(url.endswith(("script.js", "other.html", "/serve/")) or url == "/" for url in asked)
        page.run("document.querySelector('button').click()")
        page.run("document.querySelector('#sub').click()")
        below = chromium.open(f"{server.url}/serve/{path.hash_part}/sub/")
        assert below.run("getComputedStyle(document.body).backgroundColor") == "rgb(1, 2, 3)"
        assert not any(url.endswith("/nix-cache-info?") for url in page.requests)
