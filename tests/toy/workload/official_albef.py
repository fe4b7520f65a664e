"""Small files in the official layouts: the names of the real ones, narrow and less deep, with random numbers."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DATA = Path(__file__).parents[2] / "workloads" / "data"
LAYOUTS = ("pretrain", "retrieval", "vqa", "ve", "nlvr", "nlvr_pretrain")
NARROW = {768: 16, 3072: 64, 2304: 48, 30522: 120, 512: 20, 256: 8, 65536: 12, 257: 5, 577: 10, 16: 4}
"""Small sizes for the official ones."""

HEADS = {"model": {"vision": {"heads": 2}, "text": {"heads": 2}}, "contrastive": {"queue_size": 12}}
"""What a narrow file does not say."""

BLOCKS = 2
"""Blocks of the narrow image encoder."""


def rows(layout: str) -> list[dict[str, str]]:
    """The tensors of a layout: key, shape, dtype, shares."""
    with gzip.open(DATA / "albef_layouts.tsv.gz", "rt") as file:
        return [row for row in csv.DictReader(file, delimiter="\t") if row["layout"] == layout]


def optimizer_order() -> list[str]:
    """The parameters of the pre-training model in the order of the official optimiser."""
    return gzip.decompress((DATA / "albef_optimizer_order.txt.gz").read_bytes()).decode().split()


def shape_of(row: dict[str, str], narrow: bool = True) -> list[int]:
    """The shape in a row, narrow or as it is."""
    sizes = [int(size) for size in row["shape"].split("x")] if row["shape"] != "scalar" else []
    return [NARROW.get(size, size) if narrow else size for size in sizes]


def tensors(layout: str, bare: bool = False) -> dict[str, Tensor]:
    """The tensors of a layout; tied ones are one. Bare files lack the momentum copies and queues."""
    generator = torch.Generator().manual_seed(len(layout))
    found: dict[str, Tensor] = {}
    for row in rows(layout):
        name = row["key"]
        if ".blocks." in name and int(name.split(".")[2]) >= BLOCKS:
            continue
        if bare and (name.partition(".")[0].endswith("_m") or "queue" in name):
            continue
        if row["shares"]:
            found[name] = found[row["shares"]]
        elif name.endswith("position_ids"):
            found[name] = torch.arange(shape_of(row)[1])[None]
        elif row["dtype"] == "int64":
            found[name] = torch.randint(8, shape_of(row), generator=generator)
        else:
            found[name] = torch.randn(shape_of(row), generator=generator)
    return found


def optimizer_state(trained: list[Tensor], spared: int, step: Any = 240) -> dict[str, Any]:
    """The state of AdamW over parameters, of which the first are spared weight decay."""
    generator = torch.Generator().manual_seed(1)

    def moments(parameter: Tensor) -> dict[str, Any]:
        noise = torch.rand(2, *parameter.shape, generator=generator)
        return {"step": step, "exp_avg": noise[0].clone(), "exp_avg_sq": noise[1].clone()}

    shared = {"lr": 9e-5, "betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False, "initial_lr": 1e-4}
    groups = [
        {**shared, "weight_decay": 0.0, "params": list(range(spared))},
        {**shared, "weight_decay": 0.02, "params": list(range(spared, len(trained)))},
    ]
    return {"state": {index: moments(parameter) for index, parameter in enumerate(trained)}, "param_groups": groups}


def nested(layout: str, bare: bool = False) -> dict[str, Any]:
    """A whole file of a layout as the official training code saves it."""
    model = tensors(layout, bare)
    shared = {row["key"] for row in rows(layout) if row["shares"]}
    buffers = ("queue", "queue_ptr", "position_ids")
    names = [
        name
        for name in model
        if not name.partition(".")[0].endswith("_m") and name not in shared and not name.endswith(buffers)
    ]
    spared = [name for name in names if model[name].ndim == 1 or name.endswith(".bias")]
    trained = spared + [name for name in names if name not in spared]
    return {
        "model": model,
        "optimizer": optimizer_state([model[name] for name in trained], len(spared)),
        "lr_scheduler": {"t_initial": 30, "lr_min": 1e-5, "base_values": [1e-4, 1e-4], "noise_range_t": None},
        "config": {"image_res": 256, "queue_size": 65536, "schedular": {"sched": "cosine"}},
        "epoch": 4,
    }
