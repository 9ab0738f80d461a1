"""Speed and memory, side by side with plain transformers code and with TRL, in one run. See docs/performance.md."""
