"""Programs that talk to a running server through its public REST API alone."""
