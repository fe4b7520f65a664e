"""Texts in groups against the padded procedure, and their independence of each other to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from workloads.contract import KeyedRandom
from workloads.nn.bert import Bert, PairIndices, TokenSelection
from workloads.nn.packed_texts import GroupShape, Pooling, encode_packed, fuse_packed, in_full_rows, pack, text_groups

SHAPE = GroupShape(64, 16)
WIDTH, IMAGE_WIDTH, TOKENS = 48, 40, 37


def draw(name: str) -> torch.Generator:
    return KeyedRandom(("packed texts", name)).torch()


def build(layers: int, fusion_layers: int, positions: int = 200) -> Bert:
    sizes = {
        "vocabulary": 90,
        "positions": positions,
        "width": WIDTH,
        "heads": 3,
        "dropout": 0.1,
        "image_width": IMAGE_WIDTH,
    }
    bert = Bert(layers=layers, fusion_layers=fusion_layers, **sizes).double().eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.normal_(std=0.2, generator=draw("weights"))
    return bert


def texts(count: int, longest: int = 30) -> tuple[Tensor, Tensor]:
    """Return zero-padded ids [T, L] and lengths, among them the longest."""
    length_T = torch.randint(2, longest + 1, (count,), generator=draw("lengths"))
    length_T[count // 2] = longest
    ids_TL = torch.randint(1, 90, (count, longest), generator=draw("ids"))
    return ids_TL.masked_fill(torch.arange(longest) >= length_T[:, None], 0), length_T


def image(name: str = "image") -> Tensor:
    return torch.randn(TOKENS, IMAGE_WIDTH, dtype=torch.float64, generator=draw(name))


@torch.no_grad()
def packed_result(
    bert: Bert, ids_TL: Tensor, length_T: Tensor, image_NC: Tensor, pooling: Pooling = "cls", shape: GroupShape = SHAPE
) -> Tensor:
    states_SD, pooled_TD = encode_packed(bert, pack(ids_TL, length_T), length_T, pooling, shape)
    return torch.cat([pooled_TD, fuse_packed(bert, states_SD, length_T, image_NC, shape)], 1)


@pytest.mark.parametrize(("layers", "fusion_layers"), [(1, 1), (2, 2), (0, 3)])
@torch.no_grad()
def test_it_equals_the_padded_procedure(layers: int, fusion_layers: int) -> None:
    bert, (ids_TL, length_T) = build(layers, fusion_layers), texts(23, longest=70)
    mask_TL = torch.arange(70) < length_T[:, None]
    states_TLD = bert.encode(bert.words(ids_TL), mask_TL)
    pairs = PairIndices(torch.arange(23), torch.zeros(23, dtype=torch.long))
    every = TokenSelection.cls_tokens(23, ids_TL.device)
    fused_TD = bert.fuse(states_TLD, mask_TL, image()[None], pairs, every)
    found = packed_result(bert, ids_TL, length_T, image())
    torch.testing.assert_close(found, torch.cat([states_TLD[:, 0], fused_TD], 1), rtol=1e-11, atol=1e-11)


def test_a_text_gives_the_same_bits_whatever_the_texts_beside_it() -> None:
    bert, (ids_TL, length_T) = build(2, 3), texts(75, longest=40)
    together = packed_result(bert, ids_TL, length_T, image())
    for some in (torch.arange(75).flip(0), torch.tensor([40]), torch.arange(3, 75, 7), torch.arange(10, 43)):
        assert torch.equal(packed_result(bert, ids_TL[some], length_T[some], image()), together[some])


def test_groups_hold_every_token_once_and_have_one_shape() -> None:
    _, length_T = texts(200, longest=45)
    seen: list[int] = []
    for group in text_groups(length_T, SHAPE, torch.device("cpu")):
        tokens = int(length_T[group.text_G].sum())
        assert group.token_R.shape == group.position_R.shape == (SHAPE.rows,)
        assert group.cls_P.shape == group.row_P.shape == (SHAPE.texts,)
        assert len(group.text_G) <= SHAPE.texts
        assert group.layout.index_S is not None
        assert group.layout.index_S.shape == (SHAPE.rows,)
        assert group.position_R[group.cls_P].eq(0).all()
        seen += group.token_R[:tokens].tolist()
    assert sorted(seen) == list(range(int(length_T.sum())))


def test_a_text_longer_than_a_group_has_one_of_its_own() -> None:
    length_T = torch.tensor([5, 150, 7])
    groups = list(text_groups(length_T, SHAPE, torch.device("cpu")))
    assert [(group.text_G.tolist(), len(group.token_R)) for group in groups] == [([0, 2], 64), ([1], 192)]


def test_no_texts_give_no_rows() -> None:
    bert, (ids_TL, length_T) = build(1, 2), texts(2)
    assert packed_result(bert, ids_TL[:0], length_T[:0], image()).shape == (0, 2 * WIDTH)


def test_the_mean_of_the_tokens_stands_for_a_text() -> None:
    bert, (ids_TL, length_T) = build(2, 1), texts(20, longest=50)
    mask_TL = torch.arange(50) < length_T[:, None]
    with torch.no_grad():
        states_TLD = bert.encode(bert.words(ids_TL), mask_TL)
    means_TD = torch.stack([states_LD[mask_L].mean(0) for states_LD, mask_L in zip(states_TLD, mask_TL, strict=True)])
    found = packed_result(bert, ids_TL, length_T, image(), "mean")
    torch.testing.assert_close(found[:, :WIDTH], means_TD, rtol=1e-11, atol=1e-11)
    assert torch.equal(packed_result(bert, ids_TL[7:9], length_T[7:9], image(), "mean"), found[7:9])


def test_a_function_of_rows_sees_full_rows_only() -> None:
    seen: list[int] = []

    def double(rows_TF: Tensor) -> Tensor:
        seen.append(len(rows_TF))
        return 2 * rows_TF

    rows_TF = torch.randn(33, 3, generator=draw("rows"))
    assert torch.equal(in_full_rows(double, rows_TF), 2 * rows_TF)
    assert len(in_full_rows(double, rows_TF[:0])) == 0
    assert seen == [64, 0]


def test_another_image_gives_another_result() -> None:
    bert, (ids_TL, length_T) = build(1, 2), texts(4)
    one, two = (packed_result(bert, ids_TL, length_T, image(name))[:, WIDTH:] for name in ("image", "other"))
    assert (one - two).abs().amax(1).gt(1e-3).all()


def test_positions_need_not_reach_further_than_the_longest_text() -> None:
    bert, (ids_TL, length_T) = build(1, 1, positions=9), texts(5, longest=9)
    assert packed_result(bert, ids_TL, length_T, image()).isfinite().all()
