"""The report: charts as text, parts that are missing, and the whole in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.evaluate import charts, sweep_charts
from raytrain.evaluate.report import changed_settings, setting, write_report
from tests.evaluate import fake_run

PHONE, TABLET, DESK = 390, 820, 1280


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return fake_run.build(tmp_path_factory.mktemp("report"), side=64)


@pytest.fixture(scope="module")
def html(config: Config) -> str:
    return Path(write_report(config)).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"), (12.3456, "12.35"), (1234.5, "1,234"), (0.00012, "1.2e-4"),
        (-0.5, "\N{MINUS SIGN}0.5000"), (0.0, "0"), (16, "16"), (None, "\N{EN DASH}"),
        (float("nan"), "\N{EN DASH}"), (2e6, "2e6"),
    ],
)  # fmt: skip
def test_numbers_are_written_for_people(value: float | None, text: str) -> None:
    assert charts.number(value) == text


def test_ticks_are_round_inside_the_range_and_equally_written() -> None:
    assert charts.ticks(0.02, 0.31) == [0.05, 0.1, 0.15, 0.2, 0.25, 0.3]
    assert charts.tick_labels(charts.ticks(0.02, 0.31)) == [
        "0.05",
        "0.10",
        "0.15",
        "0.20",
        "0.25",
        "0.30",
    ]
    assert charts.ticks(0, 1000) == [0, 200, 400, 600, 800, 1000]
    assert charts.ticks(3, 3) == [3]


def test_long_curves_are_thinned_to_means_and_short_ones_kept() -> None:
    points = [(float(i), float(i % 2)) for i in range(10_000)]
    assert len(charts.thin(points, 100)) == 100
    assert charts.thin(points, 100)[0][1] == pytest.approx(0.5)
    assert charts.thin(points[:5], 100) == points[:5]


def test_a_curve_circles_its_best_point() -> None:
    chart = charts.line_chart([(0, 3.0), (10, 1.0), (20, 2.0)], "Loss", mark="min")
    middle = (charts.LEFT + charts.WIDTH - charts.RIGHT) / 2
    assert re.search(rf'class="best" cx="{middle:g}(\.0)?"', chart)
    assert 'aria-label="Loss: from 3.000 at step 0 to 2.000 at step 20"' in chart


def test_axes_of_a_sweep_follow_their_values() -> None:
    rate = sweep_charts.Axis("rate", [1e-5, 1e-3, 1e-1], log=False)
    assert rate.log, "a wide range is spaced by ratio"
    assert rate.place(1e-3) == pytest.approx(0.5)
    choice = sweep_charts.Axis("schedule", ["cosine", "constant"], log=False)
    assert choice.marks() == [(0.0, "constant"), (1.0, "cosine")]
    assert [text for _, text in sweep_charts.Axis("rank", [4, 8, 16], log=False).marks()] == [
        "4",
        "8",
        "16",
    ]


def test_settings_that_do_not_differ_and_failed_trials_get_no_axis() -> None:
    trials: list[dict[str, Any]] = [
        {"number": 0, "score": 1.0, "parameters": {"a": 1, "b": 2}},
        {"number": 1, "score": 0.5, "parameters": {"a": 3, "b": 2}},
        {"number": 2, "score": None, "parameters": {"a": 9, "b": 7}},
    ]
    assert [axis.key for axis in sweep_charts.searched(trials)] == ["a"]
    assert sweep_charts.parallel_chart(trials).count("<path") == 2
    assert sweep_charts.parallel_chart(trials[:1]) == ""


def test_only_changed_settings_are_listed_as_such() -> None:
    config = parse(
        {"output": "x", "model": {"path": "base"}, "train": {"learning_rate": 1e-3, "epochs": 10}}
    )
    changed = changed_settings(config)
    assert changed["train.learning_rate"] == (1e-3, 1e-4)
    assert set(changed) == {"output", "model.path", "train.learning_rate", "train.epochs"}
    assert setting({"log": (1e-5, 0.1), "int": None}) == "log: [1e-05, 0.1]"
    assert [setting(v) for v in (True, None, "", 3)] == ["true", "\N{EN DASH}", "\N{EN DASH}", "3"]


def test_the_report_names_no_other_place(html: str) -> None:
    assert not re.findall(r'(?:src|href|action|data)="(?!data:|#)[^"]*"', html)
    assert "http" not in html.replace("http-equiv", "")
    assert "default-src 'none'" in html


def test_text_of_users_is_escaped(html: str) -> None:
    assert "<b>&" not in html
    assert "&lt;b&gt;&amp; &#34;quotes&#34;" in html


def test_what_a_run_does_not_have_is_left_out(tmp_path: Path) -> None:
    config = parse({"output": str(tmp_path / "bare"), "model": {"path": "base"}})
    text = Path(write_report(config)).read_text(encoding="utf-8")
    assert "Nothing has run here yet." in text
    for part in ("scores", "images", "curves", "steps", "sweep", "dataset"):
        assert f'id="{part}"' not in text
    assert 'id="settings"' in text


def test_a_sweep_alone_has_a_report(tmp_path: Path) -> None:
    config = fake_run.build(tmp_path, side=16)
    shutil.rmtree(Path(config.output) / "evaluation")
    text = Path(write_report(config)).read_text(encoding="utf-8")
    assert re.search(r"Trial \d+ is the best of 14, with a score of 0\.\d+\.", text)
    assert 'id="scores"' not in text


def show(browser: Any, html: Path, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(html.as_uri())


@pytest.mark.browser
def test_the_report_in_a_browser(browser: Any, config: Config, html: str) -> None:
    file = Path(config.output) / "report.html"
    for width in (DESK, TABLET, PHONE):
        show(browser, file, width)
        sizes = browser.execute_script(
            "return [...document.images].map(i => [i.naturalWidth, i.alt])"
        )
        images = [alt for natural, alt in sizes if natural > 1]
        assert len(images) == 2 * len(fake_run.PROMPTS) + 3
        assert all(images), "every image has a text for people who cannot see it"
        curves = browser.execute_script(
            "return [...document.querySelectorAll('.line')].map(p => p.getTotalLength())"
        )
        assert len(curves) >= 5
        assert min(curves) > 100
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width, f"{wide} pixels do not fit on a screen of {width}"
        cut = (
            "return [...document.querySelectorAll('.scores')].filter(t => t.scrollWidth > "
            "t.parentElement.clientWidth).length"
        )
        assert browser.execute_script(cut) == 0, f"the scores are cut on a screen of {width}"
        assert browser.execute_script("return document.querySelectorAll('.trial').length") == 13
    assert browser.get_log("browser") == []
    messages = [
        json.loads(entry["message"])["message"] for entry in browser.get_log("performance")
    ]
    asked = {
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    }
    assert file.as_uri() in asked, "requests are seen at all"
    foreign = {
        url for url in asked if not url.startswith(("data:", "chrome:")) and url != file.as_uri()
    }
    assert not foreign


@pytest.mark.browser
def test_a_image_enlarges_and_a_curve_is_read_by_pointing(
    browser: Any, config: Config, html: str
) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    show(browser, Path(config.output) / "report.html", DESK)
    browser.execute_script("document.documentElement.style.scrollBehavior = 'auto'")
    button = browser.find_element(By.CSS_SELECTOR, ".zoom")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    dialog = browser.find_element(By.TAG_NAME, "dialog")
    assert dialog.is_displayed()
    assert "Base model: a red circle" in dialog.text
    dialog.find_element(By.TAG_NAME, "button").click()
    assert not dialog.is_displayed()
    chart = browser.find_element(By.CSS_SELECTOR, "svg[data-points]")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    ActionChains(browser).move_to_element(chart).perform()
    reading = browser.execute_script(
        "return arguments[0].closest('figure').querySelector('output').textContent", chart
    )
    assert re.fullmatch(r"0\.\d+ at step \d+", reading)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(browser: Any, config: Config, html: str, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    show(browser, Path(config.output) / "report.html", DESK)
    style = (
        "return (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()"
    )
    names = [
        "paper",
        "card",
        "ink",
        "muted",
        "accent",
        "good",
        "good-soft",
        "bad",
        "bad-soft",
        "warn",
        "warn-soft",
        "quiet-soft",
    ]
    color = browser.execute_script(
        f"const read = (() => {{ {style} }})(); return Object.fromEntries(arguments[0].map(n => "
        "[n, read('--' + n)]))",
        names,
    )
    pairs = [(text, ground) for text in ("ink", "muted", "accent") for ground in ("paper", "card")]
    pairs += [
        ("good", "good-soft"),
        ("bad", "bad-soft"),
        ("warn", "warn-soft"),
        ("muted", "quiet-soft"),
    ]
    low = {
        pair: ratio for pair in pairs if (ratio := contrast(*(color[name] for name in pair))) < 4.5
    }
    assert not low, f"below WCAG AA's 4.5: {low}"


def contrast(one: str, other: str) -> float:
    """Return the WCAG 2 contrast ratio of two #rrggbb colors."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
