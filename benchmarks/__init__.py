"""Speed and memory compared with plain transformers code and with TRL, in one run. See docs/performance.md."""
