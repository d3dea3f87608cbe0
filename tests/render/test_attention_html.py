"""The page in a real browser: it draws, picks layers and heads, tells exact weights, and fetches nothing."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from attention_samples import made

from llmcli.errors import UsageError
from llmcli.render.attention_html import LARGEST, attention_page, check_page, page_bytes

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs chromium or chrome, which is absent here")
ALL = tuple((layer, head) for layer in range(2) for head in range(4))

# Runs in the page after its own script; what it finds goes to an element that the test reads.
PROBE = """<pre id="found"></pre><script>
const found = {};
window.addEventListener("error", (event) => { found.error = event.message; });
const at = (query, key) => {
  const map = document.getElementById("map"), box = map.getBoundingClientRect();
  const place = (i) => margin + (i + 0.5) * size;
  map.dispatchEvent(new MouseEvent("mousemove", { clientX: box.left + place(key), clientY: box.top + place(query) }));
  return document.getElementById("tip").textContent;
};
const pixel = (query, key) => {
  const scale = window.devicePixelRatio || 1;
  const place = (i) => Math.floor((margin + (i + 0.4) * size) * scale);
  const pen = document.getElementById("map").getContext("2d");
  return [...pen.getImageData(place(key), place(query), 1, 1).data].slice(0, 3);
};
found.title = document.title;
found.name = document.getElementById("name").textContent;
found.theme = document.documentElement.dataset.theme;
found.page = getComputedStyle(document.body).backgroundColor;
const steps = %s;
for (const [layer, head, query, key] of steps) {
  document.getElementById("layer").value = layer;
  document.getElementById("head").value = head;
  document.getElementById("head").dispatchEvent(new Event("change"));
  (found.tips ||= []).push(at(query, key));
  (found.names ||= []).push(document.getElementById("name").textContent);
}
document.getElementById("map").dispatchEvent(new MouseEvent("mouseleave"));
found.masked = pixel(0, 3); found.diagonal = pixel(0, 0);
document.querySelector("#picker tr:nth-child(2) td:nth-child(3) button")?.click();
found.clicked = document.getElementById("name").textContent;
found.pressed = document.querySelectorAll('#picker button[aria-pressed="true"]').length;
document.getElementById("map").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown" }));
document.getElementById("map").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown" }));
found.key = document.getElementById("cell").textContent;
document.getElementById("theme").click();
found.other = document.documentElement.dataset.theme;
found.fetched = performance.getEntriesByType("resource").length;
document.getElementById("found").textContent = JSON.stringify(found);
</script>"""


def browse(page, tmp_path, steps=(), *options):
    """What the probe finds in a page."""
    file = tmp_path / "page.html"
    file.write_text(page + PROBE % json.dumps([list(each) for each in steps]), "utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", *options, file.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    text = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert text, dom[-2000:]
    return json.loads(html.unescape(text[1]))


@needs_browser
def test_the_page_works_in_a_browser(tmp_path):
    found = made(chosen=ALL)
    steps = [(1, 2, 5, 3), (0, 1, 2, 2), (0, 0, 1, 6)]
    seen = browse(attention_page(found, "some/model", "float32"), tmp_path, steps)
    assert "error" not in seen
    assert (seen["title"], seen["name"]) == ("Attention: some/model", "L0.H0→kv0")
    assert seen["names"] == ["L1.H2→kv1", "L0.H1→kv0", "L0.H0→kv0"]
    for (layer, head, query, key), tip in zip(steps[:2], seen["tips"], strict=False):
        weight = next(each.weights[query, key] for each in found.maps if (each.layer, each.head) == (layer, head))
        labels = [found.tokens[i].label for i in (query, key)]
        assert tip.startswith(f"query {query} {labels[0]} looks at key {key} {labels[1]}weight ")
        assert np.float32(tip.rpartition(" ")[2]) == weight
    assert seen["tips"][2].endswith("masked: a later token")
    assert seen["masked"] != seen["diagonal"]
    assert (seen["clicked"], seen["pressed"]) == ("L0.H1→kv0", 1)
    assert seen["key"].startswith("query 1 ␣Once looks at key 0 <s>")
    assert seen["fetched"] == 0


@needs_browser
def test_the_page_is_light_or_dark_as_the_reader_is(tmp_path):
    page = attention_page(made(), "m", "float32")
    light = browse(page, tmp_path, (), "--blink-settings=preferredColorScheme=1")
    dark = browse(page, tmp_path, (), "--blink-settings=preferredColorScheme=0")
    assert (light["theme"], light["other"]) == ("light", "dark")
    assert (dark["theme"], dark["other"]) == ("dark", "light")
    assert light["page"] != dark["page"]


@needs_browser
def test_a_page_of_means_without_the_sink_works_too(tmp_path):
    found = made(chosen=((1, None),), sink=True)
    seen = browse(attention_page(found, "m", "float32"), tmp_path, [("1", "mean", 4, 2)])
    assert seen["name"] == "L1 mean of heads"
    assert f"first token {float(str(found.maps[0].sink[4]))}" in seen["tips"][0]


def test_nothing_is_fetched_and_no_token_ends_the_script():
    hostile = ["</script><script>alert(1)</script>", "<!--", "\u2028", "␣"]
    page = attention_page(made(4, labels=hostile), "</script>", "float32")
    assert page.count("</script>") == 2
    assert "<!--" not in page.split('id="data">')[1]
    for text in ("http:", "https:", "src=", "@import", "url("):
        assert text not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page


def test_a_page_of_64_tokens_and_144_heads_is_under_five_megabytes_and_too_large_ones_are_refused():
    chosen = tuple((layer, head) for layer in range(12) for head in range(12))
    page = attention_page(made(64, layers=12, heads=12, chosen=chosen), "m", "float32")
    assert len(page.encode()) < 5_000_000
    assert abs(len(page) - page_bytes(64, 144)) < 100_000
    check_page(64, 144)
    with pytest.raises(UsageError, match="page of 144 maps of 2000 tokens"):
        check_page(2000, 144)
    assert page_bytes(2000, 144) > LARGEST
