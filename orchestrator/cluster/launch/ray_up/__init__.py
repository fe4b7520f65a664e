"""Clusters of Ray's cluster launcher: clouds and machines of one's own, reached by SSH."""
