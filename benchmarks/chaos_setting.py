"""What a chaos run trains: the built-in recipe with storage and MLflow of its own, or a user's recipe."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chaos_schedule import Kind, Nodes

from orchestrator.config.loading import ResolvedRecipe, load_recipe

SERVERS = Path(__file__).parents[1] / "tests" / "servers"
sys.path += [str(SERVERS), str(SERVERS / "stores")]

if TYPE_CHECKING:
    from mlflow_server import MlflowServer
    from unreliable_proxy import UnreliableProxy

MOST_WORKERS = 3
EVERY_STEPS = 5
RECIPE = f"""\
workload: albef
batch: {{micro_batches: {MOST_WORKERS}, micro_batch_size: 8}}
stream: {{chunk: 16, window: 48}}
precision: float64
model:
  preset: tiny
  image_size: 32
  vision: {{width: 32, depth: 2, heads: 2}}
  text: {{width: 32, layers: 1, fusion_layers: 1, heads: 2, positions: 32}}
  text_weights: null
text: {{max_tokens: 12}}
contrastive: {{queue_size: 96}}
optimizer: {{learning_rate: 1e-3, clip_norm: 1.0}}
checkpoint: {{every_steps: {EVERY_STEPS}, keep: 4}}
recovery: {{hang_s: 60.0, machine_faults: 1000}}
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is trained, and what its failures need.

    Args:
        recipe: the recipe's file.
        overrides: of single values of both runs.
        environment: variables of the runs.
        proxy: stands before the storage, if that may fail.
        mlflow: the tracking server, if that may be down.
    """

    recipe: Path
    overrides: tuple[str, ...]
    environment: Mapping[str, str]
    proxy: UnreliableProxy | None = None
    mlflow: MlflowServer | None = None

    def named(self, name: str, more: tuple[str, ...]) -> ResolvedRecipe:
        """Return the recipe of a run."""
        return load_recipe(self.recipe, (*self.overrides, *more, f"name={name}"))


def nodes_for(workers: int) -> Nodes:
    """Return how many nodes a cluster has when each takes one worker, of which there are at most `workers`."""
    return Nodes(first=max(1, workers - 1), fewest=1, most=workers)


def own_scale(resolved: ResolvedRecipe) -> tuple[str, ...]:
    """Return what a recipe has to change for a cluster of our own: one worker on each node, one CPU for each."""
    most = min(MOST_WORKERS, resolved.recipe.batch.micro_batches)
    return (f"scale.workers=[1, {most}]", "scale.cpus_per_worker=1", "scale.resize_every_s=5", "scale.use_gpu=false")


def built_in(stack: ExitStack, scratch: Path, steps: int, kinds: Collection[Kind], overrides: Sequence[str]) -> Setting:
    """Return the built-in recipe with shards of drawings, and the servers that the kinds of faults need.

    Args:
        stack: ends the servers.
        scratch: folder for files.
        steps: length of the run.
        kinds: kinds of faults.
        overrides: of single values.
    """
    environment: dict[str, str] = {}
    place, options, proxy, server = str(scratch), list[str](), None, None
    own = [f"length.steps={steps}"]
    if Kind.STORAGE_FAULT in kinds:
        from seaweedfs_server import seaweedfs
        from unreliable_proxy import unreliable

        store = stack.enter_context(seaweedfs())
        proxy = stack.enter_context(unreliable(store))
        environment |= store.environment()
        os.environ.update(store.environment())
        place, options = f"s3://{store.make_bucket()}", ["--endpoint", proxy.server.endpoint]
        own.append(f"storage.endpoint={proxy.server.endpoint}")
    if Kind.MLFLOW_DOWN in kinds:
        from mlflow_server import mlflow_server

        store_uri = f"sqlite:///{scratch}/mlflow.db"
        server = stack.enter_context(mlflow_server(store_uri, f"{scratch}/artifacts", scratch))
    command = [sys.executable, "-m", "orchestrator.cli", "data", "emoji", f"{place}/emoji", "--limit", "150"]
    subprocess.run([*command, "--samples-per-shard", "40", *options], check=True, capture_output=True)
    recipe = scratch / "recipe.yaml"
    recipe.write_text(f"{RECIPE}data: {{train: '{place}/emoji/train'}}\n")
    tracking = server.uri if server else f"sqlite:///{scratch}/mlflow.db"
    own += [f"storage.uri={place}/runs", f"tracking.uri={tracking}"]
    return Setting(recipe, (*overrides, *own), environment, proxy, server)
