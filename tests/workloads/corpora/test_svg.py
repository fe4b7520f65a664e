from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workloads.corpora.drawings import UnsafeDrawing, check_svg, rasterise

NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def document(body: str, box: str = "0 0 8 8") -> str:
    return f'<svg {NAMESPACES} viewBox="{box}">{body}</svg>'


def pixels(svg: str, size: int = 16) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(rasterise(svg, size))).convert("RGB"))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
    (tmp_path / "secret.svg").write_text(document('<rect id="x" width="8" height="8" fill="red"/>'))
    (tmp_path / "secret.txt").write_text("red")
    return tmp_path


def test_a_drawing_is_on_white() -> None:
    image = pixels(document('<rect width="4" height="8" fill="#ff0000"/>'))
    assert image[8, 3].tolist() == [255, 0, 0]
    assert image[8, 12].tolist() == [255, 255, 255]


def test_a_wide_drawing_is_centred_with_its_shape_kept() -> None:
    image = pixels(document('<rect width="40" height="20" fill="#ff0000"/>', "0 0 40 20"), 64)
    assert image.shape == (64, 64, 3)
    red = (image == [255, 0, 0]).all(axis=-1)
    assert red[16:48].all()
    assert not red[:16].any()
    assert not red[48:].any()


def test_the_renderer_itself_would_load_local_files(secret: Path) -> None:
    """The reason for the check: should this fail one day, the check is still right."""
    import resvg_py

    svg = document(f'<image href="{secret / "secret.png"}" width="8" height="8"/>')
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", skip_system_fonts=True))
    assert np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))[4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "body",
    [
        '<image href="{folder}/secret.png" width="8" height="8"/>',
        '<image href="file://{folder}/secret.png" width="8" height="8"/>',
        '<image xlink:href="{folder}/secret.png" width="8" height="8"/>',
        '<image xlink:href="&#47;{folder}/secret.svg" width="8" height="8"/>',
        '<image xmlns:other="http://www.w3.org/1999/xlink" other:href="{folder}/secret.png" width="8" height="8"/>',
        '<image HREF="{folder}/secret.png" width="8" height="8"/>',
        '<image href=" {folder}/secret.png" width="8" height="8"/>',
        '<image href="" width="8" height="8"/>',
        '<filter id="f"><feImage href="{folder}/secret.png"/></filter><rect width="8" height="8" filter="url(#f)"/>',
        '<use href="{folder}/secret.svg#x"/>',
        '<rect width="8" height="8" fill="url({folder}/secret.svg#x)"/>',
        '<rect width="8" height="8" style="mask: URL( \'{folder}/secret.svg#x\' )"/>',
        '<style>@import "{folder}/secret.txt";</style>',
        '<image href="https://example.org/secret.png" width="8" height="8"/>',
    ],
)
def test_a_drawing_that_refers_outside_itself_is_refused(body: str, secret: Path) -> None:
    with pytest.raises(UnsafeDrawing):
        rasterise(document(body.format(folder=secret)), 16)


def test_embedded_files_are_refused(secret: Path) -> None:
    data = base64.b64encode((secret / "secret.png").read_bytes()).decode()
    with pytest.raises(UnsafeDrawing, match="outside the drawing"):
        rasterise(document(f'<image href="data:image/png;base64,{data}" width="8" height="8"/>'), 16)


@pytest.mark.parametrize(
    "declaration", ['<!ENTITY c SYSTEM "file://{folder}/secret.txt">', '<!ENTITY c "red">', '<!ENTITY % c "red"> %c;']
)
def test_document_types_and_entities_are_refused(declaration: str, secret: Path) -> None:
    head = f"<!DOCTYPE svg [{declaration.format(folder=secret)}]>"
    with pytest.raises(UnsafeDrawing, match="document type"):
        rasterise(head + document('<rect width="8" height="8" fill="&c;"/>'), 16)


MALFORMED = ["", "no drawing", "<svg", "<svg/><svg/>", "<svg></g>", document('<use href="#&lost;"/>')]


@pytest.mark.parametrize("svg", MALFORMED)
def test_malformed_drawings_are_refused(svg: str) -> None:
    with pytest.raises(UnsafeDrawing):
        rasterise(svg, 16)


def test_a_document_that_is_no_svg_is_refused() -> None:
    with pytest.raises(UnsafeDrawing, match="cannot be rendered"):
        rasterise("<html/>", 16)


def test_a_huge_drawing_is_refused() -> None:
    with pytest.raises(UnsafeDrawing, match="characters"):
        check_svg(document("<g/>" * 300_000))


def test_a_deeply_nested_drawing_is_refused() -> None:
    with pytest.raises(UnsafeDrawing, match="nested"):
        check_svg(document("<g>" * 1_000 + "</g>" * 1_000))


def test_own_parts_may_be_used() -> None:
    body = (
        '<defs><clipPath id="c"><rect width="4" height="8"/></clipPath></defs>'
        '<rect id="r" width="8" height="8" fill="#ff0000" clip-path="url(#c)"/><use xlink:href="#r" x="1"/>'
    )
    assert pixels(document(body))[8, 2].tolist() == [255, 0, 0]


def nested(tag: str, reference: str, depth: int) -> str:
    parts = [f'<{tag} id="p0"><rect width="1" height="1"/></{tag}>']
    for number in range(depth):
        repeated = reference.format(target=f"p{number}") * 10
        parts.append(f'<{tag} id="p{number + 1}">{repeated}</{tag}>')
    return document("".join(parts) + reference.format(target=f"p{depth}"))


@pytest.mark.parametrize(
    ("tag", "reference"),
    [
        ("g", '<use href="#{target}"/>'),
        ("pattern", '<rect width="1" height="1" fill="url(#{target})"/>'),
        ("mask", '<rect width="1" height="1" style=\'mask: url( "#{target}" )\'/>'),
    ],
)
def test_references_that_multiply_are_refused(tag: str, reference: str) -> None:
    with pytest.raises(UnsafeDrawing, match="expand to"):
        check_svg(nested(tag, reference, 9))
    check_svg(nested(tag, reference, 2))


@pytest.mark.parametrize(
    "body",
    [
        '<g id="a"><use href="#a"/></g>',
        '<g id="a"><use href="#b"/></g><g id="b"><use href="#a"/></g>',
        '<g id="a"><g id="b"><use href="#a"/></g></g>',
    ],
)
def test_references_in_circles_are_refused(body: str) -> None:
    with pytest.raises(UnsafeDrawing, match="refers to itself"):
        check_svg(document(body))
