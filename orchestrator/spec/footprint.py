"""What a model takes of a GPU and of time, as measured on a CPU with small micro-batches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """The model of a recipe in figures, all for one worker that holds the whole of it.

    Args:
        trained_bytes: parameters that are trained; gradients take the same again, AdamW's two moments twice that.
        kept_bytes: parameters that are not trained, such as a teacher.
        buffer_bytes: buffers, such as a queue of features.
        fixed_bytes: the part of the activations that does not grow with the micro-batch.
        sample_bytes: what every sample of a micro-batch adds to the activations.
        flop_per_sample: of the matrix products and convolutions of a step, averaged over the run.
        cpu_samples_per_s: samples per second that the measuring machine's CPUs train on, without reading data; None
            when the recipe trains on GPUs.
        cpus: how many CPUs that were.
        sizes: of the micro-batches that were run.
        seconds: that measuring took.
    """

    trained_bytes: int
    kept_bytes: int
    buffer_bytes: int
    fixed_bytes: int
    sample_bytes: int
    flop_per_sample: float
    cpu_samples_per_s: float | None
    cpus: int
    sizes: tuple[int, ...]
    seconds: float

    def activation_bytes(self, micro_batch_size: int) -> int:
        """Return the activations of a micro-batch at their peak: linear in its size."""
        return self.fixed_bytes + self.sample_bytes * micro_batch_size
