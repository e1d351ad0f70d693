"""Commands that look into datasets, compare, clean and publish them."""
