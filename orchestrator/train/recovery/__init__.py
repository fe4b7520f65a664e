"""Recovery from failures: diagnosis of failed attempts, retry policy, elastic scaling, and the failure report."""
