"""The report of a run: plain values in, one self-contained HTML page out."""
