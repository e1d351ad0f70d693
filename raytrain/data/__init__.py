"""Data: a folder of images becomes a content-addressed parquet dataset,
and a dataset becomes exact batches."""
