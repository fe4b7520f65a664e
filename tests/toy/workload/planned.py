"""Recipes, clusters and footprints to plan with, small enough to check by hand."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

from toy_workload import ToyConfig, ToyEntry, ToyOptions

from orchestrator.config.cluster import Cluster, Footprint, NodeGroup
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.config.prices import Accelerator, Machine, PriceTable
from orchestrator.config.recipe import Recipe

PRICES = PriceTable(
    date(2026, 11, 1),
    {
        "big-gpu": Machine(
            name="big-gpu", cpus=96, memory_gb=1000, gpus=8, accelerator="H100", on_demand_usd=40, spot_usd=16
        ),
        "one-gpu": Machine(
            name="one-gpu", cpus=16, memory_gb=200, gpus=1, accelerator="L4", on_demand_usd=4, spot_usd=1
        ),
        "cpu": Machine(name="cpu", cpus=32, memory_gb=64, on_demand_usd=2, spot_usd=0.5),
        "small": Machine(name="small", cpus=4, memory_gb=16, on_demand_usd=0.2),
    },
    {
        "H100": Accelerator(name="H100", memory_gb=80, tflops_bfloat16=1000),
        "L4": Accelerator(name="L4", memory_gb=24, tflops_bfloat16=120),
    },
)

FOOTPRINT = Footprint(
    trained_bytes=10**9,
    kept_bytes=10**9,
    buffer_bytes=0,
    fixed_bytes=5 * 10**8,
    sample_bytes=10**8,
    flop_per_sample=1e12,
    cpu_samples_per_s=4.0,
    cpus=2,
    sizes=(2, 4),
    seconds=1.0,
)
"""At 64 samples: 2 + 1 + 2 GB of model, gradients and moments, and 6.9 GB of activations."""


def group(name: str, machine: str | None, most: int, **others: Any) -> NodeGroup:
    """A group of machines on spot that come when they are needed, unless it says otherwise."""
    known = PRICES.machines.get(machine or "")
    values = {"market": "spot", "fewest": 0, "cpus": None, "gpus": known.gpus if known else 0} | others
    return NodeGroup(name=name, machine=machine, most=most, **values)


HEAD = group("head", "small", 1, market="on-demand", fewest=1, cpus=0, head=True)


def cluster(*groups: NodeGroup, kind: Any = "launcher") -> Cluster:
    """A cluster with a head that takes no work."""
    return Cluster(kind=kind, name="planned", file=Path("/planned.yaml"), groups=(HEAD, *groups), settings={})


def recipe(**values: Any) -> Recipe:
    """A recipe for eight micro-batches of 64 on GPUs."""
    given = {
        "name": "planned",
        "workload": "toy",
        "precision": "bfloat16",
        "data": {"train": "s3://bucket/train"},
        "batch": {"micro_batches": 8, "micro_batch_size": 64},
        "length": {"epochs": 2},
        "scale": {"workers": 8, "use_gpu": True},
        "storage": {"uri": "s3://bucket/runs"},
        "tracking": {"uri": "http://mlflow:5000"},
    }
    return Recipe.model_validate(given | values)


def resolved(**values: Any) -> ResolvedRecipe:
    """The recipe with the toy workload."""
    return ResolvedRecipe(recipe(**values), ToyConfig(), ToyEntry(), ToyOptions())


BLOCKED = """\
import importlib.util, sys

MISSING = {"torch", "torchvision", "timm", "transformers", "mlflow", "PIL", "cv2", "matplotlib", "safetensors"}


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Missing())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in MISSING else found(name, package)
from orchestrator.cli.main import main

main()
"""
"""A program that is `fuseray` on a machine with the base installation alone."""
