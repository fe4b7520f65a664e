"""MLflow tracking: the run's own logs, the outbox that sends them, costs, goodput and spikes."""
