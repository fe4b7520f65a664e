"""Sharing locked layers with a teacher: what an encoder may do, and what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workloads.contract import WorkloadError
from workloads.nn.locking import check_lock, check_sharing, lock_first_blocks
from workloads.nn.timm_encoder import block_modules

SIZE = (2, 6)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, states_BNC: Tensor) -> Any:
        return self.fc(states_BNC)


class Stem(nn.Linear):
    grid = (1, 2)


class Encoder(nn.Module):
    """Three blocks on two tokens, with timm's interfaces."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Stem(18, 4)
        self.blocks: Any = nn.ModuleList(Block() for _ in range(3))
        self.norm = nn.LayerNorm(4)

    def group_matcher(self, coarse: bool) -> dict[str, Any]:
        return {"stem": "^stem", "blocks": [(r"^blocks\.(\d+)", None), ("^norm", (99999,))]}

    def forward_features(self, pixels_B3HW: Tensor) -> Any:
        return self.norm(self.run_blocks(self.stem(pixels_B3HW.view(len(pixels_B3HW), 2, 18))))

    def run_blocks(self, states_BNC: Tensor) -> Any:
        for block in self.blocks:
            states_BNC = block(states_BNC)
        return states_BNC

    def forward_head(self, features_BNC: Tensor, pre_logits: bool) -> Tensor:
        return features_BNC.mean(1)


class Writing(Encoder):
    """Writes into what its layers return, and reads an attribute of one."""

    def run_blocks(self, states_BNC: Tensor) -> Any:
        for block in self.blocks:
            states_BNC = block(states_BNC).mul_(self.stem.grid[1])
        return states_BNC


class Repeating(Encoder):
    """Runs a block twice."""

    def run_blocks(self, states_BNC: Tensor) -> Any:
        return super().run_blocks(self.blocks[0](states_BNC))


class Backwards(Encoder):
    """Runs its blocks in another order than timm tells."""

    def run_blocks(self, states_BNC: Tensor) -> Any:
        for block in reversed(self.blocks):
            states_BNC = block(states_BNC)
        return states_BNC


class Pairs(Encoder):
    """Its blocks return more than a tensor."""

    def run_blocks(self, states_BNC: Tensor) -> Any:
        for block in self.blocks:
            states_BNC, _ = block(states_BNC)
        return states_BNC


class PairBlock(Block):
    def forward(self, states_BNC: Tensor) -> Any:
        return super().forward(states_BNC), None


class Asking(Encoder):
    """Does different things with layers of different types."""

    def run_blocks(self, states_BNC: Tensor) -> Any:
        for block in self.blocks:
            states_BNC = block(states_BNC) + isinstance(block, Block)
        return states_BNC


def pairs() -> Encoder:
    encoder = Pairs()
    encoder.blocks = nn.ModuleList(PairBlock() for _ in range(3))
    return encoder


def share(student: Encoder, teacher: Encoder, trained_blocks: int) -> None:
    outputs = lock_first_blocks(student, teacher, trained_blocks)
    teacher.load_state_dict(student.state_dict(), strict=False)
    check_sharing(student, teacher, outputs, SIZE)


@pytest.mark.parametrize("kind", [Encoder, Writing, Repeating])
@pytest.mark.parametrize("trained_blocks", [1, 2, 3])
def test_a_teacher_has_the_layers_that_are_trained(kind: type[Encoder], trained_blocks: int) -> None:
    student, teacher = kind(), kind()
    share(student, teacher, trained_blocks)
    assert all(module.training for module in (*student.modules(), *teacher.modules()))
    own = {name for name, _ in teacher.named_parameters()}
    assert own == {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[1] for name in own if "blocks" in name} == {"0", "1", "2"} - {*"012"[: 3 - trained_blocks]}
    assert len(block_modules(student, teacher)) == 3 + trained_blocks


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Backwards, "blocks.1 runs after layers that are trained"),
        (pairs, "blocks.0 returns a tuple"),
        (Asking, "tokens would differ"),
    ],
)
def test_an_encoder_that_would_compute_wrongly_is_refused(kind: Any, why: str) -> None:
    with pytest.raises(WorkloadError, match=rf"model\.lock\.vision: .*{why}.*set all, or leave it out"):
        share(kind(), kind(), 1)


@pytest.mark.parametrize("name", ["test_vit", "test_vit3", "test_convnext", "test_efficientnet", "test_resnet"])
def test_encoders_of_timm_share_any_number_of_blocks(name: str) -> None:
    for trained_blocks in (1, 2, 3):
        check_lock(name, (64, 96), trained_blocks)


def test_what_is_recorded_is_given_once() -> None:
    student, teacher = Encoder(), Encoder()
    outputs = lock_first_blocks(student, teacher, 1)
    pixels = torch.zeros(1, 3, *SIZE)
    with outputs.recording():
        student.forward_features(pixels)
    teacher.forward_features(pixels)
    student.forward_features(pixels)
    with pytest.raises(ValueError, match="stem did not run in the student"):
        teacher.forward_features(pixels)
