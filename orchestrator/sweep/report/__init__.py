"""The report of a sweep: a page, the best recipe, and the best model in MLflow's registry."""
