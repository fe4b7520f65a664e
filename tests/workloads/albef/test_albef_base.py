"""The preset `base` has the sizes of the official model, counted from the official classes."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from workloads.albef.config import AlbefConfig
from workloads.albef.model import Encoders, Student

CONFIG = AlbefConfig()


@pytest.fixture(scope="module")
def student() -> Student:
    with torch.device("meta"):
        return Student(CONFIG.model, CONFIG.contrastive.temperature)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("part", "parameters"),
    [
        (lambda student: student.visual_encoder, 85_844_736),
        (lambda student: student.text_encoder, 123_697_722),
        (lambda student: student, 209_937_725),
    ],
    ids=["image encoder", "BERT with its head", "everything trained"],
)
def test_parameters(student: Student, part: Callable[[Student], nn.Module], parameters: int) -> None:
    assert count(part(student)) == parameters


def test_parameters_with_the_teacher(student: Student) -> None:
    with torch.device("meta"):
        teacher = Encoders(CONFIG.model)
    assert count(student) + count(teacher) == 419_873_911


def test_normalisations_have_the_official_epsilons(student: Student) -> None:
    epsilons = {
        part: {module.eps for module in getattr(student, part).modules() if isinstance(module, nn.LayerNorm)}
        for part in ("visual_encoder", "text_encoder")
    }
    assert epsilons == {"visual_encoder": {1e-6}, "text_encoder": {1e-12}}
