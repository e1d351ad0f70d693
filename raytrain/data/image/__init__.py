"""Images: from bytes to the pixels of a bucket."""
