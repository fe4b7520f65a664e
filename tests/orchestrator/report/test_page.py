from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import io
import re

import pytest
from html_page import Page, words
from PIL import Image

from orchestrator.report.model import EvaluatedCheckpoint, Report, Run, Status
from orchestrator.report.page import SECTIONS, render
from orchestrator.stream.unusable import ReasonCount
from workloads.contract import Evaluation, Gallery, GalleryRow, Picture

MEASURED = ["losses", "optimisation", "held-out-retrieval-over-time", "held-out-results"]


def with_gallery(report: Report, row: GalleryRow, image: bytes) -> Report:
    evaluation = Evaluation({}, (), (Gallery("Examples", "", (row,)),))
    return dataclasses.replace(report, evaluated=EvaluatedCheckpoint(evaluation, {0: image}))


def test_full_page_nests_and_holds_every_section(full_page: str) -> None:
    page = Page(full_page)
    sections = [section["id"] for section in page.all("section")]
    assert sections == [*MEASURED, "gallery-1", "gallery-2", *SECTIONS]
    assert "run fuseray" not in words(page)


def test_empty_page_names_the_command_for_each_missing_part(empty_report: Report) -> None:
    page = Page(render(empty_report))
    assert [section["id"] for section in page.all("section")] == [*MEASURED, *SECTIONS]
    assert "Not evaluated yet: run fuseray evaluate 'my run'." in words(page)
    assert words(page).count(": run fuseray") == len(MEASURED) + len(SECTIONS)
    assert page.all("svg") == page.all("img") == []


@pytest.mark.parametrize(
    ("section", "changes", "command"),
    [
        ("losses", {"curves": {}}, "fuseray train recipes/demo.yaml --resume albef-demo"),
        ("optimisation", {"curves": {}}, "fuseray train recipes/demo.yaml --resume albef-demo"),
        ("held-out-retrieval-over-time", {"curves": {}}, "fuseray evaluate albef-demo"),
        ("held-out-results", {"evaluated": None}, "fuseray evaluate albef-demo"),
        ("time", {"time": {}}, "fuseray train recipes/demo.yaml --resume albef-demo"),
        ("skipped", {"skipped": None}, "fuseray train recipes/demo.yaml --resume albef-demo"),
        ("recipe", {"recipe_yaml": ""}, "fuseray train recipes/demo.yaml --dry-run"),
        ("environment", {"machine": {}}, "fuseray doctor"),
    ],
)
def test_a_missing_part_says_how_to_make_it(full_report: Report, section: str, changes: dict, command: str) -> None:
    page = render(dataclasses.replace(full_report, **changes))
    body = page[page.index(f'<section id="{section}"') :].split("</section>")[0]
    assert f"run <code>{command}</code>" in body


def test_commands_name_the_folder_and_the_server(full_report: Report) -> None:
    run = dataclasses.replace(full_report.run, folder="s3://b/my runs/a", endpoint="http://store:9000", recipe="RECIPE")
    page = html.unescape(render(dataclasses.replace(full_report, run=run)))
    assert "fuseray train RECIPE --resume 's3://b/my runs/a'\n" in page
    assert "fuseray evaluate 's3://b/my runs/a' --endpoint http://store:9000<" in page


def test_held_out_samples_that_cannot_be_used_are_shown_with_reason_and_key(full_report: Report) -> None:
    assert full_report.evaluated is not None
    unusable = (ReasonCount("image is missing", 2, ("a/1", "a/2")),)
    evaluated = dataclasses.replace(full_report.evaluated, unusable=unusable, samples=40)
    page = render(dataclasses.replace(full_report, evaluated=evaluated, held_out_unusable=unusable))
    assert "2 of 40 held-out samples could not be used" in page
    assert "2 held-out samples could not be used by the last evaluation while training" in page
    assert page.count('<tr><th scope="row">image is missing</th><td>2</td><td class="keys"><code>a/1</code>') == 2
    assert "could not be used" not in render(full_report)


def test_nothing_skipped_differs_from_not_counted(full_report: Report) -> None:
    assert "No sample was skipped." in render(dataclasses.replace(full_report, skipped=()))


def test_untrusted_text_is_escaped(full_page: str) -> None:
    page = Page(full_page)
    assert "<script>alert" not in full_page
    assert len(page.all("script")) == 1
    assert words(page).count("<script>alert('caption')</script> & \"quotes\"") == 5


def test_hostile_run_names_stay_text(full_report: Report) -> None:
    run = Run(name='"><img src=x onerror=alert(1)>', status=Status.FAILED, created="now", message="<b>broken</b>")
    page = Page(render(dataclasses.replace(full_report, run=run, evaluated=None)))
    assert page.all("img") == page.all("b") == []
    assert "onerror" not in {name for _, attributes in page.elements for name in attributes}


def test_nothing_is_fetched(full_page: str) -> None:
    page = Page(full_page)
    for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
        assert all(value.startswith(("data:", "#")) for value in page.attribute(name))
    assert "http:" not in full_page
    assert "https:" not in full_page
    assert "@import" not in full_page
    assert re.findall(r"url\((?!#)", full_page) == []


def test_policy_allows_only_the_pages_own_script(full_page: str) -> None:
    policy = next(meta["content"] for meta in Page(full_page).all("meta") if "http-equiv" in meta)
    script = full_page.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:")
    assert f"script-src 'sha256-{digest}'" in policy


def test_equal_reports_give_equal_pages(full_report: Report, full_page: str) -> None:
    assert render(full_report) == full_page


def test_ids_are_unique_and_references_resolve(full_page: str) -> None:
    page = Page(full_page)
    ids = page.attribute("id")
    assert len(ids) == len(set(ids))
    targets = {value[1:] for value in page.attribute("href") if value.startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]+)\)", full_page))
    targets |= set(page.attribute("aria-labelledby")) | set(page.attribute("data-copies"))
    assert targets <= set(ids)


def test_every_picture_has_a_text(full_page: str) -> None:
    page = Page(full_page)
    assert len(page.all("img")) == 5 + 3
    assert all(image["alt"] for image in page.all("img"))
    assert all(svg["aria-label"] and svg["role"] == "img" for svg in page.all("svg"))


def test_right_answers_carry_a_word_besides_the_colour(full_page: str) -> None:
    assert words(Page(full_page)).count("✓ right") == 1


def test_headline_figures_are_written_for_people(full_page: str) -> None:
    text = words(Page(full_page))
    assert (
        "Best held-out R@10 36.0% 18\N{MULTIPLICATION SIGN} the chance level of 2.0%; text → image, re-ranked" in text
    )
    assert "Samples per second 58.3 9,600 samples in all" in text
    assert "Wall time 5 min 41 s 300 steps" in text
    assert "Cost 1,234.50 USD 41.2 node-hours" in text
    assert "1,234 samples were skipped, 11.4% of those read" in text
    assert "123.5 MB" in text


def test_big_pictures_are_made_small(full_report: Report) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((1500, 900), 80).save(buffer, format="JPEG")
    row = GalleryRow("noise", (Picture(0, "noise", 1.0, True),))
    page = Page(render(with_gallery(full_report, row, buffer.getvalue())))
    (source,) = page.attribute("src")
    assert max(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).size) == 192


def test_a_damaged_picture_is_named(full_report: Report) -> None:
    row = GalleryRow("a hat", (Picture(0, "", 1.0, True),))
    with pytest.raises(ValueError, match=r"image 1 of 'a hat' is not a readable image"):
        render(with_gallery(full_report, row, b"\x89PNG broken"))


def test_one_skipped_sample_is_singular(full_report: Report) -> None:
    assert "1 sample was skipped" in render(
        dataclasses.replace(full_report, skipped=(ReasonCount("caption is empty", 1),))
    )
