"""What a plan says of a data set of which some samples cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
from damage import flipped, rewrite, shard_file, write_data_set
from shards import picture, samples

from orchestrator.config.loading import load_recipe
from orchestrator.plan.reachability import check_dataset, check_transform
from workloads.albef.config import AugmentConfig, TextConfig
from workloads.contract import Sample
from workloads.transforms.pairs import PairTransform

TRANSFORM = PairTransform((16, 16), AugmentConfig(), TextConfig(tokenizer="minilm"))


def checked(folder: Path) -> tuple[str, str]:
    """Return the level of the finding about a data set, and what it says."""
    (finding,) = check_dataset(str(folder), None, 20.0, lambda: TRANSFORM).findings
    return finding.level, finding.found


@pytest.mark.parametrize(
    ("unreadable", "undecodable"), [((), ()), ((1,), ()), ((), (2,)), ((0, 1), (2,)), ((0, 1, 2), ())]
)
def test_all_samples_that_were_looked_at_count(
    tmp_path: Path, unreadable: tuple[int, ...], undecodable: tuple[int, ...]
) -> None:
    content = list(samples(3))
    for number in undecodable:
        content[number] = Sample(content[number].key, picture(number)[:60], content[number].captions)
    folder = write_data_set(tmp_path / "data", [content], "webdataset")
    for number in unreadable:
        caption = content[number].captions[0].encode()
        rewrite(shard_file(folder, 0, "webdataset"), lambda data, caption=caption: flipped(data, data.index(caption)))
    level, found = checked(folder)
    bad = sorted((*unreadable, *undecodable))
    assert f"3 samples in 1 shards; {3 - len(bad)} of 3 looked at can be used" in found
    assert level == ("pass" if not bad else "warning" if len(bad) < 3 else "error")
    assert not bad or f"; 's0000{bad[0]}': " in found


def test_no_more_samples_are_claimed_than_there_are(tmp_path: Path) -> None:
    folder = write_data_set(tmp_path / "data", [[Sample("only", b"no image", ("a picture",))]], "webdataset")
    level, found = checked(folder)
    assert (level, "0 of 1 looked at can be used; 'only': image is corrupt" in found) == ("error", True)


def test_a_tokenizer_of_the_hub_is_a_check_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    recipe = Path("workloads/recipes/emoji-demo.yaml")
    assert check_transform(load_recipe(recipe, ["text.tokenizer=minilm"]), 20.0) is None
    finding = check_transform(load_recipe(recipe, ["text.tokenizer=nobody/nothing"]), 20.0)
    assert finding is not None
    assert finding.level == "error"
    assert "'nobody/nothing' is no local file or folder, and the Hugging Face hub did not provide it" in finding.found
