"""`fuseray sweep`: hyperparameter search with Ray Tune, where every trial is a whole run."""
