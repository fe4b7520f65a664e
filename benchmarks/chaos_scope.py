"""Which faults may strike what: a pure decision."""

from __future__ import annotations

from dataclasses import dataclass

from chaos_schedule import TAKES_A_NODE, Kind


@dataclass(frozen=True, slots=True)
class Scope:
    """What a chaos run may touch.

    Args:
        own_cluster: the cluster was started for it.
        own_storage: so were the storage and the MLflow server, and the recipe is the built-in one.
        consent: checkpoints of a user's recipe may be damaged.
    """

    own_cluster: bool
    own_storage: bool
    consent: bool

    def refusal(self, kind: Kind) -> str | None:
        """Return why a kind is not possible here, None when it is."""
        if kind in (*TAKES_A_NODE, Kind.NODE_ADD) and not self.own_cluster:
            return "adds or ends nodes, and those of the cluster at --address are not this tool's; leave --address out"
        if kind in (Kind.STORAGE_FAULT, Kind.MLFLOW_DOWN) and not self.own_storage:
            return "breaks storage or MLflow, and those of --recipe are not this tool's; leave --recipe out"
        if kind is Kind.CHECKPOINT_CORRUPTION and not (self.own_storage or self.consent):
            return "damages a checkpoint in your storage; allow it with --corrupt-checkpoints"
        return None

    def kinds(self) -> tuple[Kind, ...]:
        """Return all kinds that are possible here."""
        return tuple(kind for kind in Kind if self.refusal(kind) is None)
