"""The published scorers, rule by rule and defect by defect, for parity with published numbers (docs/rewards.md).

Two functions per task: the reward that the published training adds up, and the metric of the published evaluation.
Rows hold the gold answer without tags; the published solution is rebuilt from it, with the spaces that decide what
math-verify finds. Sources: the multimodal code of GPG (AMAP-ML/GPG: R1-V, Visual-RFT and VisualThinker folders).
"""
