"""Report and card as a browser sees them: nothing missing, nothing complained about, nothing wider than a phone."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))

from fake_study import fake_study
from test_card import a_plan
from tiny import sample, sealed

from geodata.pictures import album, save_rejects
from geodata.shards import Reject
from pipelines import card
from pipelines.report import write

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
]
PROBE = """<script>addEventListener("load", () => {
  const images = [...document.images].map((one) => one.complete && one.naturalWidth > 0);
  const charts = [...document.querySelectorAll("svg.chart")].map((one) => one.getBoundingClientRect().height > 40);
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const fetched = performance.getEntriesByType("resource").filter((one) => !one.name.startsWith("data:")).length;
  const ground = getComputedStyle(document.body).backgroundColor;
  document.documentElement.dataset.probe = JSON.stringify({images, charts, wide, fetched, ground});
});</script></head>"""

pytestmark = [
    pytest.mark.integration,
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(fake_study(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def data_card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The card of three samples, with an example of a stratum, a refused chip and a plan of five."""
    root = tmp_path_factory.mktemp("tiny")
    samples = [sample(1), sample(2, barred=True), sample(3)]
    a_plan([(13.0, 52.0), (14.0, 50.0), (-100.0, 40.0), (25.0, -20.0), (140.0, -25.0)]).write(root)
    album(root / "pictures", samples[:1])
    picture = np.full((40, 40, 3), 200, np.uint8)
    save_rejects(root / "rejects" / "a.png", [("r-1", "cloudy", "93 % of the chip", picture)])
    return card.write(sealed(root, {"a": samples}, (Reject("r-1", "cloudy", "93 %"),)).root)


def browse(folder: Path, page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run the browser on a page, with a profile and a home of its own."""
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, page.as_uri()]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"HOME": str(folder)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not re.search(r"CONSOLE[:(]", done.stderr), done.stderr[-2000:]
    return done


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (500, "light")])
@pytest.mark.parametrize(("page", "images", "charts"), [("report", 20, 9), ("data_card", 2, 8)])
def test_a_browser_shows_every_picture_and_complains_of_nothing(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    page: str,
    images: int,
    charts: int,
    width: int,
    scheme: str,
) -> None:
    probed = tmp_path / "report.html"
    probed.write_text(request.getfixturevalue(page).read_text().replace("</head>", PROBE, 1))
    theme = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    done = browse(
        tmp_path, probed, "--dump-dom", f"--window-size={width},1000", "--virtual-time-budget=4000", *theme
    )
    found = re.search(r'data-probe="([^"]*)"', done.stdout)
    assert found, done.stdout[:500]
    seen = json.loads(found[1].replace("&quot;", '"'))
    assert len(seen["images"]) == images
    assert all(seen["images"])
    assert len(seen["charts"]) == charts
    assert all(seen["charts"])
    assert seen["wide"] <= 0
    assert seen["fetched"] == 0
    assert seen["ground"] == ("rgb(20, 23, 26)" if scheme == "dark" else "rgb(247, 246, 242)")


def test_a_screenshot_is_not_blank(report: Path, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    target = tmp_path / "report.png"
    browse(tmp_path, report, f"--screenshot={target}", "--window-size=1200,1600")
    with image.open(target) as shot:
        colours = shot.convert("RGB").getcolors(maxcolors=1 << 24)
        assert shot.size == (1200, 1600)
    assert len(colours) > 200
