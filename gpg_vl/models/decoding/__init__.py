"""The steps of a rollout: the cache, and the next token of every row."""
