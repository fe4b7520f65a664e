"""What the page says of sweeps that went in many ways."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from html_page import Page, words
from made_sweeps import SAMPLES, SWEEP, Point, halved, stopped

from orchestrator.sweep.folder import SweepFolder
from orchestrator.sweep.report.page import SECTIONS, PageInputs, render
from orchestrator.sweep.report.sweep_results import read_results

MakeSweep = Callable[..., SweepFolder]
NOT_RECORDED = PageInputs("name: <b>recipe</b>", "runs/alpha-size/best.yaml", "name: alpha-size", None, ())
TWO = SWEEP.replace("mode: min}]", "mode: min}, {metric: 'held_out/<b>$recall$@10', mode: max}]")
HOSTILE = "</td><script>alert('reason')</script> & \"quotes\""


def page_of(folder: SweepFolder) -> tuple[Page, str]:
    html = render(read_results(folder), NOT_RECORDED)
    return Page(html), html


def section(html: str, id_: str) -> str:
    return words(Page(html[html.index(f'<section id="{id_}"') :].split("</section>", maxsplit=1)[0] + "</section>"))


def labels(page: Page) -> list[str]:
    return [svg["aria-label"] for svg in page.all("svg")]


def test_a_finished_sweep_has_every_section_and_figure(make_sweep: MakeSweep) -> None:
    page, html = page_of(make_sweep(more="replicas: 3\n"))
    assert [one["id"] for one in page.all("section")] == [id_ for id_ in SECTIONS if id_ != "front"]
    assert len(page.all("svg")) == 4 + 3 + 1 + 1
    assert all(svg["aria-label"] and svg["role"] == "img" for svg in page.all("svg"))
    assert "36 of 36 36 finished" in words(page)
    assert "Cost 100.00 USD 5.00 node-hours" in words(page)
    assert "Wall time 2 h 30 min 9,600 samples in a whole trial" in words(page)
    assert re.search(r"Best \d\.\d+ ± 0\.\d+ the smallest loss; over 3 seeds, configuration 2", words(page))
    assert "started 2026-05-01 10:00:00 UTC" in words(page)
    assert "3 of 3 30.00 USD" in section(html, "configurations")
    assert html == render(read_results(make_sweep(more="replicas: 3\n")), NOT_RECORDED)


def test_figures_tell_their_numbers(make_sweep: MakeSweep) -> None:
    folder = make_sweep()
    found = read_results(folder)
    values = [one.scores[0].mean for one in found.configurations]
    span = f"from {min(values):.4g} to {max(values):.4g}"
    sized = [one.scores[0].mean for one in found.configurations if "adversarial.step_size" in one.assignment]
    page, html = page_of(folder)
    assert f"loss over distillation.alpha; 12 configurations trained to the end, {span}" in labels(page)
    assert (
        f"loss over distillation.alpha and adversarial.step_size: {len(sized)} configurations, "
        f"from {min(sized):.4g} to {max(sized):.4g}" in labels(page)
    )
    assert "loss over samples: 12 trials to their end, 0 stopped early, 0 not over" in labels(page)
    assert f"{12 - len(sized)} configurations leave this key as it is in the recipe." in section(html, "responses")


def test_rows_are_ordered_from_good_to_bad(make_sweep: MakeSweep) -> None:
    folder = make_sweep(ends={(2, 0): {"status": "FAILED", "reports": 0}, (1, 0): stopped(4), (0, 0): stopped(8)})
    _, html = page_of(folder)
    rows = re.findall(r'<th scope="row">(\d+)', html[html.index('<section id="configurations"') :])
    whole = sorted((one.scores[0].mean, one.number) for one in read_results(folder).whole)
    assert [int(one) for one in rows] == [*(number for _, number in whole), 0, 1, 2]
    assert "after 3,840" in section(html, "configurations")


def test_successive_halving_compares_at_equal_samples_and_marks_stops_and_rungs(
    make_sweep: MakeSweep, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text, more = SWEEP.replace("trials: 12", "trials: 27"), "scheduler: {kind: asha}\n"
    ends = halved(tmp_path_factory.mktemp("like"), text, more)
    folder = make_sweep(text=text, more=more, ends=ends)
    found = read_results(folder)
    assert (found.rungs, found.compared_at, len(found.compared), len(found.whole)) == ((960, 2880, 8640), 960, 27, 1)
    page, html = page_of(folder)
    assert "loss over samples: 1 trials to their end, 26 stopped early, 0 not over" in labels(page)
    response = next(one for one in labels(page) if one.startswith("loss over distillation.alpha;"))
    assert "1 configurations trained to the end" in response
    assert "27 configurations after the samples that nearly all have seen" in response
    assert "(left out: 26 of 27, for these reasons)" in section(html, "best")
    assert "stopped early: configurations 0, 1," in section(html, "sweep")
    assert "dotted: the scheduler compares trials" in section(html, "learning")


def test_failed_trials_are_listed_with_their_reason_and_in_no_figure(make_sweep: MakeSweep) -> None:
    ends = {(number, 1): {"status": "FAILED", "reports": 3, "reason": HOSTILE} for number in (0, 2)}
    folder = make_sweep(more="replicas: 2\n", ends=ends)
    page, html = page_of(folder)
    assert HOSTILE in section(html, "failures")
    assert "trial-0002-1" in section(html, "failures")
    assert "<script>alert" not in html
    assert len(page.all("script")) == 1
    assert "loss over samples: 22 trials to their end, 0 stopped early, 0 not over" in labels(page)
    assert any(one.startswith("loss over distillation.alpha; 10 configurations trained") for one in labels(page))
    assert "not every replica ended well: configurations 0, 2" in section(html, "sweep")


def test_several_objectives_have_a_front_and_untrusted_names_stay_text(make_sweep: MakeSweep) -> None:
    folder = make_sweep(text=TWO)
    page, html = page_of(folder)
    found = read_results(folder)
    assert page.all("b") == []
    front = ", ".join(str(one.number) for one in found.best.front)
    assert f"held_out/<b>$recall$@10 against loss of 12 configurations; not beaten: {front}" in labels(page)
    assert "is the best by loss, the first objective, and one of" in section(html, "best")
    assert len(page.all("svg")) == 1 + 2 * 4 + 2 * 3 + 1 + 2
    assert section(html, "importance").count("distillation.alpha") == 2


def test_a_running_sweep_says_so(make_sweep: MakeSweep) -> None:
    ends = {(4, 0): {"status": "RUNNING", "reports": 5}, (5, 0): {"status": "PAUSED", "reports": 3}}
    page, html = page_of(make_sweep(status="RUNNING", trials=6, ends=ends))
    assert "still running when this page was written" in words(page)
    assert "6 of 12 4 finished, 1 running, 1 paused" in words(page)
    assert "The sweep continues, so another one may still be better." in section(html, "best")
    assert "loss over samples: 4 trials to their end, 0 stopped early, 2 not over" in labels(page)
    assert "too few to tell; needs 8" in section(html, "importance")


def test_what_was_running_when_a_sweep_was_killed_is_interrupted(make_sweep: MakeSweep) -> None:
    page, html = page_of(make_sweep(status="KILLED", trials=3, ends={(2, 0): {"status": "RUNNING", "reports": 5}}))
    assert "interrupted" in section(html, "configurations")
    assert "3 of 12 2 finished, 1 interrupted" in words(page)


@pytest.mark.parametrize("ends", [{}, {(0, 0): {"status": "FAILED", "reports": 0, "reason": "broken"}}])
@pytest.mark.parametrize("status", ["RUNNING", "FAILED"])
def test_a_sweep_without_a_finished_trial_says_so(make_sweep: MakeSweep, ends: dict, status: str) -> None:
    page, html = page_of(make_sweep(status=status, trials=len(ends), ends=ends))
    assert page.all("svg") == []
    assert "none is called the best" in section(html, "best")
    for id_ in ("responses", "parallel", "importance"):
        assert "No configuration has ended with a value yet." in section(html, id_)


def test_one_trial_is_a_sweep(make_sweep: MakeSweep) -> None:
    _, html = page_of(make_sweep(trials=1))
    assert "Configuration 0 is the best by loss." in section(html, "best")
    assert "Too few configurations near each other for a surface: the points alone." in section(html, "maps")


def test_a_training_that_diverged_spoils_no_figure(make_sweep: MakeSweep) -> None:
    points = tuple(Point(SAMPLES * one // 20, (900.0,)) for one in range(1, 21))
    nothing = tuple(Point(SAMPLES * one // 20, (float("nan"),)) for one in range(1, 21))
    folder = make_sweep(ends={(3, 0): {"points": points}, (4, 0): {"points": nothing}})
    _, html = page_of(folder)
    assert section(html, "responses").count("1 value is beyond the axis, far from all others.") == 4
    assert "its objective is not finite: configuration 4" in section(html, "sweep")


def test_trials_that_took_over_checkpoints_count_with_all_their_runs(make_sweep: MakeSweep) -> None:
    more = "scheduler: {kind: pbt}\n"
    folder = make_sweep(more=more, ends={(0, 0): {"run": "trial-0000-0-from-0a1b2c3d"}})
    (folder.run("trial-0000-0-from-0a1b2c3d").costs / "start-1700000000000.json").write(
        next(iter(folder.run("trial-0000-0").costs.list())).read()
    )
    _, html = page_of(folder)
    assert read_results(folder).spent[0].usd == pytest.approx(20.0)
    assert read_results(folder).spent[1].usd == pytest.approx(10.0)
    assert "Population based training changed its values while it was trained." in section(html, "best")


def test_nothing_is_fetched_and_ids_are_unique(make_sweep: MakeSweep) -> None:
    page, html = page_of(make_sweep(text=TWO))
    ids = page.attribute("id")
    assert len(ids) == len(set(ids))
    for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
        assert all(value.startswith(("data:", "#")) for value in page.attribute(name))
    assert "http:" not in html
    assert "https:" not in html
    targets = {value[1:] for value in page.attribute("href") if value.startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]+)\)", html)) | set(page.attribute("aria-labelledby"))
    assert targets <= set(ids)
