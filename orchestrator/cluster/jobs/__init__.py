"""Recipes on a cluster: packing the code, submitting it, following and ending jobs, and remembering them."""
