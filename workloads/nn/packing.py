"""Texts of different lengths side by side, without the padding between them.

Shapes: R texts, L tokens of the longest, S tokens kept of all texts, F features of a token.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """Where the tokens that layers work on stand in their texts.

    Args:
        mask_RL: True at tokens, False at padding.
        slot_S: the kept tokens' places among all R * L, ascending; None when all places are kept.
        has_padding: whether padding may be among the places.
    """

    mask_RL: Tensor
    slot_S: Tensor | None
    has_padding: bool

    @classmethod
    def packed(cls, mask_RL: Tensor) -> Layout:
        """Keep the tokens alone."""
        slot_S = mask_RL.flatten().nonzero().squeeze(1)
        return cls(mask_RL, None, False) if len(slot_S) == mask_RL.numel() else cls(mask_RL, slot_S, True)

    @classmethod
    def padded(cls, mask_RL: Tensor) -> Layout:
        """Keep padding as well, so that shapes depend on the longest text alone."""
        return cls(mask_RL, None, True)

    @classmethod
    def whole(cls, rows: int, length: int, device: torch.device) -> Layout:
        """Rows of one length, all of it kept."""
        return cls(torch.ones(rows, length, dtype=torch.bool, device=device), None, False)

    @property
    def keys_RL(self) -> Tensor | None:
        """Where attention may look; None for everywhere."""
        return self.mask_RL if self.has_padding else None

    def pack(self, states_RLF: Tensor) -> Tensor:
        """Return the features of the kept tokens, [S, F]."""
        states = states_RLF.flatten(0, 1)
        return states if self.slot_S is None else states.index_select(0, self.slot_S)

    def unpack(self, states_SF: Tensor) -> Tensor:
        """Return [R, L, F] with zeros where nothing was kept."""
        shape = (*self.mask_RL.shape, states_SF.shape[1])
        if self.slot_S is None:
            return states_SF.view(shape)
        empty = states_SF.new_zeros(self.mask_RL.numel(), states_SF.shape[1])
        return empty.index_copy(0, self.slot_S, states_SF).view(shape)

    def place(self, row: Tensor, token: Tensor) -> Tensor:
        """Return where kept tokens, given by text and position in it, stand among all kept ones."""
        slot = row * self.mask_RL.shape[1] + token
        return slot if self.slot_S is None else torch.searchsorted(self.slot_S, slot)

    def repeated(self, row_Q: Tensor) -> tuple[Layout, Tensor]:
        """Return the layout of a choice of texts, and where its kept tokens stand among those of this layout."""
        length = self.mask_RL.shape[1]
        mask_QL = self.mask_RL.index_select(0, row_Q)
        every = torch.arange(mask_QL.numel(), device=row_Q.device)
        slot_S = every if self.slot_S is None else mask_QL.flatten().nonzero().squeeze(1)
        layout = Layout(mask_QL, None if self.slot_S is None else slot_S, self.has_padding)
        return layout, self.place(row_Q[slot_S // length], slot_S % length)
