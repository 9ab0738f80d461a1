"""The weights of a loaded model: which are trained, in which type each is held and computed, sharded or whole."""
