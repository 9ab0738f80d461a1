"""GPG-VL: teach a vision-language model to reason over images by Group Policy Gradient (arXiv 2504.02546)."""

__version__ = "0.1.0"
