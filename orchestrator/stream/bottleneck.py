"""Whether training waits for the stream, and which knob to turn: a pure decision."""

from __future__ import annotations

BOTTLENECK_SHARE = 0.1
"""Share of the time above which waiting is worth a word."""


def advice(reading_s: float, decoding_s: float, total_s: float) -> str | None:
    """Return what to do about waiting for data, or None when there is little of it.

    Args:
        reading_s: seconds that training waited for samples to arrive.
        decoding_s: seconds that training waited for samples that had arrived to be decoded.
        total_s: seconds in which it did so.
    """
    waited = reading_s + decoding_s
    if total_s <= 0 or waited / total_s < BOTTLENECK_SHARE:
        return None
    finding = f"the stream is the bottleneck: training waited for data {waited / total_s:.0%} of the time"
    if decoding_s >= reading_s:
        return (
            f"{finding}, mostly for its own threads to decode. Give the readers more CPUs (lower "
            "scale.cpus_per_worker, or add machines), or raise stream.decode_threads."
        )
    return (
        f"{finding}, mostly for samples to arrive. Add CPUs for reading and decoding, put the data nearer, "
        "or make reads longer with a larger stream.chunk."
    )
