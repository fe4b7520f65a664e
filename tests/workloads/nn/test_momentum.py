import torch
from torch import nn

from workloads.nn.momentum import init_teacher, update_teacher


class Pair(nn.Module):
    def __init__(self, extra: bool) -> None:
        super().__init__()
        self.shared = nn.Linear(3, 2)
        if extra:
            self.head = nn.Linear(2, 1)


def test_teacher_starts_equal_and_untrained() -> None:
    teacher, student = Pair(extra=False), Pair(extra=True)
    init_teacher(teacher, student)
    assert torch.equal(teacher.shared.weight, student.shared.weight)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_teacher_moves_by_the_momentum() -> None:
    teacher, student = Pair(extra=False).double(), Pair(extra=True).double()
    before = teacher.shared.weight.clone()
    update_teacher(teacher, student, 0.9)
    torch.testing.assert_close(teacher.shared.weight, 0.9 * before + 0.1 * student.shared.weight, rtol=1e-14, atol=0)
