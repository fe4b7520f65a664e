"""What a run stands on: the machine and the services it needs, examined before work starts."""
