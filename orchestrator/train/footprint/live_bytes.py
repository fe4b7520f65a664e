"""The bytes of the tensors that are alive, after every operation of a piece of code."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary


class LiveBytes(TorchDispatchMode):
    """Counts what operations allocate while it is entered, by storage: views cost nothing, each storage counts once.

    It sees forward and backward passes alike, and what autograd saves as well as what comes and goes within them. What
    a kernel allocates for itself and gives back before it returns stays unseen.

    Args:
        known: tensors that were there before, such as parameters; they do not count.

    Attributes:
        timeline: bytes alive after each operation.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.timeline: list[int] = []
        self._live = 0
        self._seen: Any = WeakIdKeyDictionary()
        for tensor in known:
            self._seen[tensor.untyped_storage()] = True

    @property
    def peak(self) -> int:
        """Return the most bytes that were ever alive."""
        return max(self.timeline, default=0)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Carry out an operation and look at what it made."""
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._enter, result)
        self.timeline.append(self._live)
        return result

    def _enter(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            self._seen[storage] = True
            self._live += storage.nbytes()
            weakref.finalize(storage, self._leave, storage.nbytes())
        return tensor

    def _leave(self, size_bytes: int) -> None:
        self._live -= size_bytes
