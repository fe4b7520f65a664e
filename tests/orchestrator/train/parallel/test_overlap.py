"""Gradients are sent while the last backward pass is still running. The proof is the order of events."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from orchestrator.train.parallel.base import CompletedWork, Work
from orchestrator.train.parallel.data_parallel import Replicated

ONE_LAYER = 4 * 3 * 3  # bytes of a weight: a bucket per layer


class RecordingCollective:
    """Two workers that always have the same gradients; notes what is sent when."""

    rank = 0
    size = 2

    def __init__(self) -> None:
        self.events: list[str] = []
        self.names: dict[int, str] = {}

    def all_reduce(self, tensor: Tensor) -> None:
        self.events.append("sum")

    def all_reduce_async(self, tensor: Tensor) -> Work:
        self.events.append(f"send {self.names[tensor.data_ptr()]}")
        tensor.mul_(2)
        return CompletedWork()


class Chain(nn.Module):
    """Three linear maps, called in an order other than that of their registration."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Linear(3, 3, bias=False) for _ in range(3))

    def loss(self, order: str) -> Tensor:
        states = torch.ones(2, 3)
        for name in order:
            states = self.get_submodule(name)(states)
        return states.square().sum()


def replicated(model: Chain) -> tuple[Replicated, RecordingCollective]:
    collective = RecordingCollective()
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda _, letter=name[0]: collective.events.append(f"gradient {letter}")
        )
    parallel = Replicated(list(model.parameters()), collective, bucket_bytes=ONE_LAYER)
    collective.names = {parameter.grad.data_ptr(): name[0] for name, parameter in model.named_parameters()}
    parallel.begin_step()
    return parallel, collective


def step(parallel: Replicated, *losses: Tensor) -> None:
    parallel.begin_step()
    for number, loss in enumerate(losses, 1):
        parallel.backward(loss, retain_graph=False, last=number == len(losses))
    parallel.finish_backward()
    parallel.average_gradients(1.0)


def test_buckets_leave_during_the_last_pass_alone() -> None:
    model = Chain()
    parallel, collective = replicated(model)
    step(parallel, model.loss("abc"), model.loss("abc"))
    once = ["gradient c", "gradient b", "gradient a"]
    assert collective.events == [*once, "gradient c", "send c", "gradient b", "send b", "gradient a", "send a", "sum"]


def test_the_sums_are_those_of_separate_passes() -> None:
    model = Chain()
    parallel, _ = replicated(model)
    step(parallel, model.loss("abc"), model.loss("abc"))
    found = [parameter.grad.clone() for parameter in model.parameters()]
    plain = Chain()
    for _ in range(2):
        plain.loss("abc").backward()
    for gradient, parameter in zip(found, plain.parameters(), strict=True):
        assert torch.equal(gradient, 2 * parameter.grad)


def test_the_order_of_the_first_step_is_kept() -> None:
    model = Chain()
    parallel, collective = replicated(model)
    step(parallel, model.loss("cab"))
    assert [event for event in collective.events if event.startswith("send")] == ["send c", "send b", "send a"]
    assert collective.events[-1] == "sum"  # worker 0 tells the others that b, a, c is the better order
    collective.events.clear()
    step(parallel, model.loss("cab"))
    assert collective.events == ["gradient b", "send b", "gradient a", "send a", "gradient c", "send c"]


@pytest.mark.parametrize("says_final", [True, False])
def test_what_a_pass_leaves_out_is_sent_all_the_same(says_final: bool) -> None:
    model = Chain()
    parallel, collective = replicated(model)
    parallel.backward(model.loss("ac"), retain_graph=False, last=says_final)
    parallel.finish_backward()
    sent = [event for event in collective.events if event.startswith("send")]
    assert sent == ["send c", "send b", "send a"]


def test_a_worker_without_samples_sends_the_same_messages() -> None:
    parallel, collective = replicated(Chain())
    parallel.finish_backward()
    assert collective.events == ["send c", "send b", "send a", "sum"]


def test_a_pass_after_the_final_one_is_refused() -> None:
    model = Chain()
    parallel, _ = replicated(model)
    parallel.backward(model.loss("abc"), retain_graph=False, last=True)
    with pytest.raises(RuntimeError, match="final=True"):
        parallel.backward(model.loss("abc"), retain_graph=False, last=True)


def test_a_gradient_that_changes_after_it_was_sent_is_an_error() -> None:
    model = Chain()
    parallel, _ = replicated(model)
    states = torch.ones(2, 3, requires_grad=True)
    for _ in range(2):
        states = checkpoint(model.c, states, use_reentrant=True)  # a backward pass of its own per use of c
    with pytest.raises(RuntimeError, match="reached a parameter twice"):
        parallel.backward(states.sum(), retain_graph=False, last=True)
