import torch

from workloads.nn.attention import TokenLayout

MASK = torch.arange(5) < torch.tensor([3, 5, 1])[:, None]
STATES = torch.arange(15.0).view(3, 5, 1) + 1


def test_packing_keeps_tokens_in_order() -> None:
    layout = TokenLayout.packed(MASK)
    packed = layout.pack(STATES)
    assert packed.flatten().tolist() == [1, 2, 3, 6, 7, 8, 9, 10, 11]
    torch.testing.assert_close(layout.unpack(packed), STATES * MASK[..., None])


def test_padded_layouts_keep_everything() -> None:
    layout = TokenLayout.padded(MASK)
    assert layout.pack(STATES).shape == (15, 1)
    torch.testing.assert_close(layout.unpack(layout.pack(STATES)), STATES)
    assert layout.keys_RL is MASK


def test_without_padding_there_is_no_mask_and_no_index() -> None:
    layout = TokenLayout.packed(torch.ones(2, 4, dtype=torch.bool))
    assert layout.index_S is None
    assert layout.keys_RL is None


def test_packed_indices_find_tokens() -> None:
    row, token = torch.tensor([0, 1, 2, 1]), torch.tensor([2, 4, 0, 0])
    for layout in (TokenLayout.packed(MASK), TokenLayout.padded(MASK)):
        selected = layout.pack(STATES)[layout.packed_index(row, token)]
        torch.testing.assert_close(selected, STATES[row, token])


def test_repeated_texts_carry_their_tokens_along() -> None:
    rows = torch.tensor([2, 0, 0, 1])
    for layout in (TokenLayout.packed(MASK), TokenLayout.padded(MASK)):
        chosen, index = layout.select_rows(rows)
        expected = chosen.pack(STATES[rows])
        torch.testing.assert_close(layout.pack(STATES)[index], expected)
        torch.testing.assert_close(chosen.mask_RL, MASK[rows])
