"""From a dataset to a worker's batches."""
