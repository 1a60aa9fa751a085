"""Hostile texts in every view, in a real browser: nothing runs, and the text is there to be read.

Skipped, and said so, where there is no chromium.
"""

from __future__ import annotations

import html.parser
import json
from pathlib import Path
from typing import Any

import pytest

from browser import find_chromium, loaded
from hostile_views import RUN, TEXTS, shown_of
from unanimity._views.words import plain

needs_chromium = pytest.mark.skipif(
    find_chromium() is None, reason="chromium is not installed (Debian's package chromium)"
)
# Waits until every picture is there, then writes down what the page became.
_PROBE = """<script>
addEventListener("load", async () => {
  for (const one of document.querySelectorAll("details")) one.open = true;
  const pictures = [...document.images];
  await Promise.all(pictures.map(one => one.decode().catch(() => 0)));
  const drawn = [];
  for (const one of pictures.filter(one => one.src.startsWith("data:image/svg"))) {
    const text = new TextDecoder().decode(
      Uint8Array.from(atob(one.src.split(",")[1]), c => c.charCodeAt(0)));
    const parsed = new DOMParser().parseFromString(text, "image/svg+xml");
    const shown = document.body.appendChild(document.importNode(parsed.documentElement, true));
    const wide = shown.width.baseVal.value, high = shown.height.baseVal.value;
    const outside = [...shown.querySelectorAll("text,rect")].filter(one => {
      const box = one.getBBox();
      const by = one.getCTM().f - shown.getCTM().f, at = one.getCTM().e - shown.getCTM().e;
      return at + box.x < 0 || by + box.y < 0
        || at + box.x + box.width > wide + 1 || by + box.y + box.height > high + 1;
    }).map(one => one.outerHTML.slice(0, 200));
    shown.remove();
    drawn.push({
      outside,
      width: one.naturalWidth,
      broken: parsed.getElementsByTagName("parsererror").length,
      acting: parsed.querySelectorAll("script,a,image,use,foreignObject,animate").length,
      handlers: [...parsed.querySelectorAll("*")].filter(
        e => [...e.attributes].some(a => a.name.startsWith("on"))).length,
      text: parsed.documentElement.textContent,
    });
  }
  const views = [...document.querySelectorAll("section")].map(one => ({
    name: one.id,
    text: one.innerText,
    acting: one.querySelectorAll("script,a,iframe,object,embed,link,svg").length,
    handlers: [...one.querySelectorAll("*")].filter(
      e => [...e.attributes].some(a => a.name.startsWith("on") || a.name === "href")).length,
    sources: [...one.querySelectorAll("[src]")].map(e => e.src.slice(0, 26)),
    wide: one.scrollWidth > one.clientWidth + 1,
  }));
  const found = {
    ran: document.documentElement.dataset.ran || "", views, drawn,
    fetched: performance.getEntriesByType("resource").map(e => e.name.slice(0, 60)),
    good: getComputedStyle(document.querySelector(".good") || document.body).color,
  };
  const told = document.createElement("pre");
  told.id = "found";
  told.textContent = JSON.stringify(found);
  document.body.replaceChildren(told);
});
</script>"""


class Told(html.parser.HTMLParser):
    """The text of the element in which the page told what it became."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.is_in = False
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.is_in = self.is_in or ("id", "found") in attrs

    def handle_endtag(self, tag: str) -> None:
        self.is_in = self.is_in and tag != "pre"

    def handle_data(self, data: str) -> None:
        self.text += data if self.is_in else ""


def look(folder: Path, sections: dict[str, str], *options: str) -> Any:
    page = folder / "page.html"
    body = "".join(f'<section id="{name}">{html}</section>' for name, html in sections.items())
    page.write_text(
        "<!doctype html><meta charset=utf-8><title>views</title>"
        f"<style>:root{{color-scheme:light dark}}</style>{_PROBE}<body>{body}</body>",
        encoding="utf-8",
    )
    profile = folder / "profile"
    dom = loaded(page, profile, "--window-size=1000,800", "--virtual-time-budget=60000", *options)
    return json.loads(Told(dom).text)


@needs_chromium
@pytest.mark.parametrize("kind", TEXTS)
def test_nothing_runs_and_the_text_is_shown(kind: str, tmp_path: Path) -> None:
    text = TEXTS[kind]
    views = shown_of(text)
    found = look(tmp_path, {name: view.to_html() for name, view in views.items()})
    assert found["ran"] == ""
    # Whatever the page fetched was in it.
    assert [name for name in found["fetched"] if not name.startswith("data:")] == []
    assert [one["name"] for one in found["views"]] == list(views)
    for one in found["views"]:
        assert (one["acting"], one["handlers"]) == (0, 0), one["name"]
        assert set(one["sources"]) <= {"data:image/svg+xml;base64,"}, one["name"]
        if one["name"] not in ("latency", "config", "saga"):
            # A browser that shows white space as one space shows the same words.
            shown = " ".join(one["text"].split())
            assert " ".join(plain(text).split()) in shown, one["name"]
    assert len(found["drawn"]) >= 6
    for drawn in found["drawn"]:
        assert drawn["width"] > 100
        assert (drawn["broken"], drawn["acting"], drawn["handlers"]) == (0, 0, 0)
        assert drawn["outside"] == []
        assert plain(text)[:8] in drawn["text"]


@needs_chromium
def test_no_view_is_wider_than_its_page(tmp_path: Path) -> None:
    views = shown_of(TEXTS["long"])
    found = look(tmp_path, {name: view.to_html() for name, view in views.items()})
    assert [one["name"] for one in found["views"] if one["wide"]] == []


@needs_chromium
def test_colours_follow_the_page_and_the_notebook(tmp_path: Path) -> None:
    html = shown_of("plain")["history"].to_html()
    dark = ("--blink-settings=preferredColorScheme=0",)
    light = ("--blink-settings=preferredColorScheme=1",)
    assert look(tmp_path, {"one": html}, *light)["good"] == "rgb(26, 127, 55)"
    assert look(tmp_path, {"one": html}, *dark)["good"] == "rgb(95, 208, 122)"
    # A notebook's theme wins over what the system prefers.
    themed = f'<div data-jp-theme-light="true">{html}</div>'
    assert look(tmp_path, {"one": themed}, *dark)["good"] == "rgb(26, 127, 55)"
    themed = f'<div data-jp-theme-light="false">{html}</div>'
    assert look(tmp_path, {"one": themed}, *light)["good"] == "rgb(95, 208, 122)"


@needs_chromium
def test_the_probe_sees_what_runs(tmp_path: Path) -> None:
    """A page that does not escape is found out: else the tests above would prove nothing."""
    for kind in ("script", "image"):
        raw = f'<div class="unanimity">{TEXTS[kind]}</div>'
        assert look(tmp_path, {"raw": raw})["ran"] == "1", kind
    raw = (
        f'<div class="unanimity"><img src="{TEXTS["quote"].replace("onload", "onerror", 1)}"></div>'
    )
    assert look(tmp_path, {"raw": raw})["views"][0]["handlers"] == 1


def test_a_document_of_its_own_holds_nothing_that_acts() -> None:
    for text in TEXTS.values():
        for view in shown_of(text).values():
            if hasattr(view, "to_svg"):
                svg = view.to_svg()
                assert svg.startswith("<svg ") and svg.endswith("</svg>\n")
                assert f"<script>{RUN}" not in svg and ' onload="' not in svg
                assert "href" not in svg
