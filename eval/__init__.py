"""The benchmarks of the paper, one file each, and the table beside the paper's numbers (docs/evaluation.md)."""
