"""The page of `mdsl report`: it holds all that it shows, and a browser finds its way through it."""

from __future__ import annotations

import base64
import json
import re
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mdsl.cli import command

ROOT = Path(__file__).parents[2]
CNN = ROOT / "examples" / "mnist" / "cnn.mir"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For a target that need not run here: nothing is measured."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert command(["report", str(CNN), "--no-measure", "--target=avx2", "-o", str(path)]) == 0
    return path


def blob(page: Path, name: str) -> Any:
    found = re.search(rf'id="{name}">([^<]*)<', page.read_text())
    assert found
    return json.loads(zlib.decompress(base64.b64decode(found[1])))


def test_it_asks_no_network_for_anything(page: Path) -> None:
    text = page.read_text()
    assert set(re.findall(r"https?://[^\"' ]*", text)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text and "<link" not in text and " src=" not in text


def test_every_line_leads_to_a_place_of_the_source(page: Path) -> None:
    data = blob(page, "data")
    names = [step["name"] for step in data["steps"]]
    assert names[0] == "source" and names[-1] == "bytecode" and {"fuse", "tile", "lower-vm"} <= set(names)
    conv2 = next(n for n, place in enumerate(data["places"]) if place.startswith("%conv2 "))
    for step in data["steps"]:
        numbers = {place for _, place in step["lines"]}
        assert numbers <= {None, *range(len(data["places"]))}
        assert conv2 in numbers, f"the convolution is lost after {step['name']}"


def test_kernels_come_with_their_assembly(page: Path) -> None:
    data, assembly = blob(page, "data"), blob(page, "assembly")
    used = {kernel for _, kernel in data["uses"]}
    assert used <= assembly.keys()
    assert any("vfmadd" in text for text in assembly.values())


def test_the_picture_of_the_arena_has_no_overlaps(page: Path) -> None:
    buffers = blob(page, "data")["arena"]["buffers"]
    assert len(buffers) > 3
    for n, a in enumerate(buffers):
        for b in buffers[:n]:
            together = a["first"] < b["last"] and b["first"] < a["last"]
            apart = a["offset"] + a["bytes"] <= b["offset"] or b["offset"] + b["bytes"] <= a["offset"]
            assert apart or not together, (a["name"], b["name"])


def test_what_a_name_says_is_not_read_as_html(tmp_path: Path) -> None:
    net = tmp_path / "<script>alert(1)<{data}.mir"
    net.write_text(CNN.read_text())
    shutil.copy(CNN.with_suffix(".safetensors"), tmp_path / f"{net.stem}.safetensors")
    out = tmp_path / "o.html"
    assert command(["report", str(net), "--no-measure", "-o", str(out)]) == 0
    assert "<title>&lt;script&gt;alert(1)&lt;{data}.mir</title>" in out.read_text()


def test_a_program_that_is_lowered_already_has_a_page(tmp_path: Path) -> None:
    net, out = tmp_path / "net.mir", tmp_path / "o.html"
    kernel = CNN.parents[1] / "kernel.mir"
    assert command(["opt", "--compile-to=vm", "--target=avx2", str(kernel), "-o", str(net)]) == 0
    assert command(["report", str(net), "--no-measure", "--target=avx2", "-o", str(out)]) == 0
    assert "</html>" in out.read_text()


def test_a_compiled_program_has_its_bytecode_kernels_and_layers(tmp_path: Path, executes: None) -> None:
    net, out = tmp_path / "net.mbc", tmp_path / "o.html"
    assert command(["compile", str(CNN), "-o", str(net)]) == 0
    assert command(["report", str(net), "-o", str(out)]) == 0
    data, assembly = blob(out, "data"), blob(out, "assembly")
    (step,) = data["steps"]
    lines = [data["texts"][text] for text, _ in step["lines"]]
    assert "target: " in step["cost"] and any("dispatch" in line for line in lines)
    assert any("ukernel.func @" in line for line in lines) and data["arena"]["size"] > 0
    assert {kernel for _, kernel in data["uses"]} <= assembly.keys()
    layer = max(data["layers"], key=lambda layer: layer["flops"])
    assert layer["seconds"] > 0 and re.fullmatch(r"cnn\.mir:\d+:\d+", layer["name"])
    assert any(place == layer["place"] for _, place in step["lines"])


def test_a_compiled_program_cannot_be_compiled_without_a_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = tmp_path / "net.mbc"
    assert command(["compile", str(CNN), "-o", str(net)]) == 0
    assert command(["report", str(net), "--savings", "-o", str(tmp_path / "o.html")]) == 1
    assert "--savings compiles the program without each pass" in capsys.readouterr().err
    net.write_bytes(net.read_bytes()[:-7])
    assert command(["report", str(net), "-o", str(tmp_path / "o.html")]) == 1
    assert "net.mbc: error:" in capsys.readouterr().err


def test_a_dimension_without_a_size_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = CNN.parents[1] / "passes" / "bind.mir"
    assert command(["report", str(net), "-o", str(tmp_path / "o.html")]) == 1
    assert "dimension 'batch' has no size" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Debian's packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    switches = (
        "--headless=new --no-sandbox --disable-gpu --disable-background-networking --disable-dev-shm-usage"
    )
    for switch in [*switches.split(), "--window-size=1400,900"]:
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as found:
        found.get(page.as_uri())
        found.implicitly_wait(10)
        found.find_element("css selector", "body[data-ready]")
        yield found
        assert found.get_log("browser") == []


def texts(browser: Any, selector: str) -> str:
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent).join('\\n')", selector
    )


def press(browser: Any, keys: str) -> None:
    browser.find_element("tag name", "body").send_keys(keys)


def test_it_is_painted_within_a_second(browser: Any) -> None:
    # The entry is made when a frame has been shown, which may be after the page says that it is ready.
    script = """
        const done = arguments[arguments.length - 1];
        const tell = (list) => list.getEntriesByName('first-contentful-paint').forEach((paint) => done(paint.startTime));
        new PerformanceObserver(tell).observe({type: 'paint', buffered: true});"""
    browser.set_script_timeout(30)
    assert browser.execute_async_script(script) < 1000


def test_keys_go_through_passes_and_views(browser: Any) -> None:
    press(browser, "1")
    first = texts(browser, "#view h2")
    press(browser, "j")
    assert texts(browser, "#view h2") != first
    press(browser, "k")
    assert texts(browser, "#view h2") == first
    for key, wanted in zip("23456", (".line", "tr.pick", "circle.dot", "rect.buffer", "li"), strict=True):
        press(browser, key)
        assert browser.find_elements("css selector", f"#view {wanted}"), wanted


def test_an_op_is_followed_from_the_source_to_its_assembly(browser: Any) -> None:
    press(browser, "3")
    row = next(r for r in browser.find_elements("css selector", "tr.pick") if r.text.startswith("%conv2"))
    row.click()
    assert texts(browser, "#op h2").startswith("%conv2 ")
    summaries = texts(browser, "#op summary")
    assert all(step in summaries for step in ("source", "lower-nn", "tile", "lower-vm", "bytecode"))
    browser.execute_script("document.querySelector('#op details.kernel').open = true")
    browser.find_element(
        "xpath", "//aside//details[@class='kernel']/pre[contains(., 'vfmadd') or contains(., 'vmul')]"
    )


def test_a_value_in_a_diff_leads_to_its_op(browser: Any) -> None:
    press(browser, "1")
    browser.execute_script(
        "[...document.querySelectorAll('#steps button')].find((b) => b.textContent.startsWith('fuse') && !b.className).click()"
    )
    value = browser.find_element("css selector", "#view .line.add .v")
    browser.execute_script("arguments[0].click()", value)
    assert texts(browser, "#op h2") != "Pick an op"


def test_search_finds_ops_kernels_and_lines(browser: Any) -> None:
    press(browser, "/")
    box = browser.find_element("id", "search")
    box.send_keys("conv1")
    results = browser.find_elements("css selector", ".results button")
    assert len(results) > 3
    results[0].click()
    assert "%conv1" in texts(browser, "#op h2")
    box.clear()


def test_a_narrow_screen_has_one_column_and_the_theme_turns(browser: Any) -> None:
    before = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    browser.find_element("id", "theme").click()
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") != before
    press(browser, "3")
    inside = "return [document.documentElement, document.querySelector('#view')].every((e) => e.scrollWidth <= e.clientWidth)"
    assert browser.execute_script(inside)
    browser.set_window_size(500, 900)
    assert browser.execute_script(inside)
    browser.set_window_size(1400, 900)
