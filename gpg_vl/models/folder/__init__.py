"""A model folder on disk: found, read as data alone, checked and written."""
