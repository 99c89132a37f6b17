"""The page of a running study. If these fail, somebody opens a page that is stale, broken, or runs
what a study's file says."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from ledgers import interleaved, start, written
from test_status import LIVE, at

from ray_unlearn.analysis.report.live_page import keep_page, live_html, live_page
from ray_unlearn.environment import Environment
from ray_unlearn.store.event import Note, TrialEnded
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.status import Follower

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
NASTY = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"


def nasty_page(folder: Path) -> str:
    """The page of a study whose name, notes, reasons, problems and host are markup.

    A study file cannot have such a name; what writes a ledger might.
    """
    ended = TrialEnded(number=3, attempt=0, status="failed", reason=NASTY)
    written(folder, [*interleaved(), ended, Note(text=NASTY)])
    replace(LIVE, time=at(2), host=NASTY, problems=[NASTY]).write(folder)
    follower = Follower(folder)
    found = replace(follower.poll(), name=NASTY)
    return live_html(live_page(found, follower, 5.0), ("gradient_ascent",))


def page_of(folder: Path) -> str:
    follower = Follower(folder)
    return live_html(live_page(follower.poll(), follower, 5.0), ("gradient_ascent",))


def test_the_page_says_what_the_terminal_says(tmp_path: Path) -> None:
    study = written(tmp_path / "s", [*interleaved(), Note(text="lane 1 restarts: killed")])
    replace(LIVE, time=at(2)).write(study)
    html = page_of(study)
    text = " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL).split())
    for part in (
        "test running 3/4 trials, about 1 min", "2 complete, 1 pruned; 1 under way",
        "running on node-7 (process 42)", "best score 0.1429 after 3 trials; target 0",
        "3 gradient_ascent 4.00e-02 1 of 4 0.2000 under way",
        "1 gradient_ascent 2.00e-02 1 0.3333 pruned",
        "0 busy 3 75% 40 s 1 10.0.0.1", "A lane waits for 1 GPU.", "lane 1 restarts: killed",
        "again every 5 s",
    ):  # fmt: skip
        assert part in text
    assert '<meta http-equiv="refresh" content="5">' in html


def test_a_page_needs_nothing_but_itself_and_runs_nothing(tmp_path: Path) -> None:
    html = nasty_page(tmp_path / "s")
    assert re.findall(r"<(?:script|img|link|iframe)|<[^>]*\son\w+=", html) == []
    addresses = re.findall(r'https?://[^"\s<]*', html)
    assert set(addresses) <= {"http://www.w3.org/2000/svg"}, "the name of SVG, which is not loaded"


def test_pages_follow_the_study_and_stop_with_it(tmp_path: Path) -> None:
    study, page = written(tmp_path / "s", start(4)), tmp_path / "page.html"
    replace(LIVE, time=at(2)).write(study)
    seen: list[str] = []

    class Clock(Environment):
        def sleep(self, seconds: float) -> None:
            seen.append(page.read_text())
            if len(seen) == 1:
                with Ledger.open(study / "ledger") as ledger:
                    for event in interleaved()[2:]:
                        ledger.append(event)
            else:
                replace(LIVE, running=False, time=at(0)).write(study)

    told: list[str] = []
    keep_page(Follower(study), page, 5.0, lambda: told.append("there"), Clock())
    assert told == ["there"]
    assert ["0/4 trials" in seen[0], "3/4 trials" in seen[1]] == [True, True]
    last = page.read_text()
    assert "not running" in last
    assert "http-equiv" not in last, "nothing will change any more"
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
def test_a_browser_shows_a_name_that_is_markup_and_runs_none_of_it(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(nasty_page(tmp_path / "s"))
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000")
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, *flags, "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    assert title[1].startswith("4/4 &lt;script&gt;"), "not changed by what it names"
    assert "<h1>&lt;script&gt;" in done.stdout
    assert "<svg" in done.stdout
