"""Launchers, and objectives side by side (`compare`). Run as `scripts/NAME`."""
