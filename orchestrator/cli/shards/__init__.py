"""The verbs of `fuseray shards`: build, index, inspect, verify and stats."""
