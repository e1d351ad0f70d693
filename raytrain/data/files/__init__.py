"""Files: bytes wherever they are."""
