"""Guards: what ends, restarts or refuses a run that cannot go well."""
