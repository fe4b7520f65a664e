"""The verbs of clusters and their jobs: up, down, dashboard, submit, jobs, status, logs and stop."""
