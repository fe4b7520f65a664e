"""The report of a sweep: from its folder to a page, the best recipe and a registered model."""
