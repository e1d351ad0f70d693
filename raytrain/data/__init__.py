"""Data: a folder of pictures becomes a content-addressed parquet dataset, and a dataset becomes exact batches."""
