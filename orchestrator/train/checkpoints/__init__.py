"""Checkpoints: the state of a run in one folder, written by all workers and committed by a manifest.

    step-00000120/
        model-0-of-2-TAG.safetensors      worker 0's shards of the model's tensors
        model-1-of-2-TAG.safetensors      worker 1's
        optimizer-0-of-2-TAG.safetensors  the optimizer state, by parameter name; absent when there is none
        optimizer-1-of-2-TAG.safetensors
        state-TAG.json                    next step, digests, MLflow run, workload and its config
        manifest.json                     sizes and digests of the files above, and the step's metrics

A folder without a manifest, or whose files do not match it, is not a checkpoint. The tag is different for every attempt
to save, so that files of different attempts never mix. `damaged.json` marks a damaged checkpoint, `pinned.json` one
that is never pruned.

The header of every file of tensors says which elements of which tensor it holds, so that a checkpoint loads with any
number of workers, replicated or sharded. The format of torch.distributed.checkpoint was considered: its `.metadata` is
a pickle, and nothing is ever unpickled here.
"""
