"""Checkpoints: the whole state of a run in one folder, written by all workers, committed by a manifest at the end.

    step-00000120/
        model-0-of-2-TAG.safetensors      worker 0's part of student, teacher and queues
        model-1-of-2-TAG.safetensors      worker 1's
        optimizer-0-of-2-TAG.safetensors  the optimiser's moments, by parameter name; absent when there are none
        optimizer-1-of-2-TAG.safetensors
        state-TAG.json                    next step, digests, MLflow run, workload and its configuration
        manifest.json                     sizes and digests of the files above, and the step's metrics

A folder without a manifest, or whose files do not match it, is no checkpoint. The tag is different for every attempt
to save, so that files of different attempts never meet. `damaged.json` marks a checkpoint that was found damaged,
`pinned.json` one that is never pruned.

The header of every file of tensors says which elements of which tensor are in it, so that a checkpoint loads at any
number of workers, whole or in shards. The format of torch.distributed.checkpoint was considered: its `.metadata` is a
pickle, and nothing is ever unpickled here.
"""
