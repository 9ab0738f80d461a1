"""The paper's benchmarks, one file each, and the table that compares with the paper's numbers (docs/evaluation.md)."""
