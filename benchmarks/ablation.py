"""ALBEF's ablation with VILLA's rows on top, measured on emoji in several drawing styles; JSON lines.

    python benchmarks/ablation.py                       # the whole table; says first how long it takes
    python benchmarks/ablation.py --quick               # a part of it, at most 15 minutes on two cores
    python benchmarks/ablation.py --row +itc --row +hard-negatives --noise clean --seed 0 --set length.steps=300

Rows and base recipe are those of ablation_rows.py and ablation.yaml. Every run sees equally many samples; runs of one
seed see them in the same order and start from the same weights. A part of the captions is swapped for training alone.
Runs share the machine's cores, one thread each. A finished run is kept in the results file and not repeated; one that
was interrupted begins again. Lines on standard output:

    {"row", "noise", "seed", "metric", "value"}         for each metric of each run
    {"summary", "row", "noise", "metric", "mean", "spread", "seeds"}    spread: standard deviation over seeds

Metrics are held-out: recalls (`text_to_image/recall@1` and so on, with `reranked/` by the matching head over the whole
gallery) with their chance, `loss_itm` and `loss_mlm` with theirs, `loss_mlm_other_image`; and the run's `seconds`. The
table stands on standard error at the end, beside estimate and progress.
"""
