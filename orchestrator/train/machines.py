"""The machines that a run begins on: those that are there, or those that an autoscaling cluster brings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import ray

from orchestrator.config.errors import SpecError
from orchestrator.config.recipe import Recipe
from orchestrator.stream.decoder import Node, decoded_share
from orchestrator.train.growth import in_words, needs_in_words
from orchestrator.train.plan import Plan, check_machines

LOOK_EVERY_S = 1.0


class Wish(Protocol):
    """Something that can be asked of the cluster."""

    def hold(self) -> None:
        """Ask, again and again."""
        ...

    def release(self) -> None:
        """Ask no more."""
        ...


@dataclass(frozen=True, slots=True)
class Growth:
    """What a cluster can become.

    Args:
        most: its machines when all are there that may come; None when that cannot be told beforehand.
    """

    most: Sequence[Node] | None


def present_nodes() -> list[Node]:
    """Return what the machines offer that are there."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(found.get("CPU", 0.0), found.get("GPU", 0.0)) for found in resources]


def present_decoded_share(plan: Plan, workers: int) -> float:
    """Return the share of micro-batches that the readers decode, with the machines that are there."""
    return decoded_share(
        plan.recipe.stream.decode_on, present_nodes(), workers, plan.recipe.scale.cpus_per_worker, plan.decode_threads
    )


@dataclass(frozen=True)
class Gathering:
    """Waits for the machines that a run cannot begin without.

    Args:
        recipe: says what it needs, and how long it waits.
        growth: what the cluster can become; None when it stays as it is.
        wish: asks for what is lacking.
        tell: takes messages for the user.
        look: returns the machines that are there.
        clock: seconds that only go forward.
        sleep: waits some seconds.
    """

    recipe: Recipe
    growth: Growth | None
    wish: Wish
    tell: Callable[[str], None]
    look: Callable[[], list[Node]] = present_nodes
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def wait(self, stopped: Callable[[], bool]) -> bool:
        """Wait until the machines are there; return False when asked to stop before.

        Args:
            stopped: whether the run is to end.

        Raises:
            SpecError: they cannot come, or do not come in time.
        """
        nodes = self.look()
        if self.growth is None:
            check_machines(self.recipe, nodes)
            return True
        if self.growth.most is not None:
            check_machines(self.recipe, self.growth.most)
        if _enough(self.recipe, nodes):
            return True
        needs = needs_in_words(self.recipe)
        self.tell(f"waiting for machines: have {in_words(nodes)}, asked for {needs}")
        try:
            return self._wait(stopped)
        finally:
            self.wish.release()

    def _wait(self, stopped: Callable[[], bool]) -> bool:
        began_s = self.clock()
        limit_s = self.recipe.scale.machines_wait_s
        while not _enough(self.recipe, nodes := self.look()):
            if stopped():
                return False
            if self.clock() - began_s > limit_s:
                raise SpecError(
                    f"scale.machines_wait_s: for {limit_s:g} s the cluster has not brought what the run needs "
                    f"({needs_in_words(self.recipe)}); it has {in_words(nodes)}. See why its autoscaler brings no "
                    "machines (`ray status`, quotas, spot capacity), lower scale.workers, or wait for longer."
                )
            self.wish.hold()
            self.sleep(LOOK_EVERY_S)
        self.tell(f"the machines are there after {self.clock() - began_s:.0f} s: {in_words(nodes)}")
        return True


def _enough(recipe: Recipe, nodes: Sequence[Node]) -> bool:
    try:
        check_machines(recipe, nodes)
    except SpecError:
        return False
    return True
