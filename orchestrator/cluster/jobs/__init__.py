"""Jobs on a cluster: packing the code, checking and submitting a recipe, following, stopping and listing jobs."""
