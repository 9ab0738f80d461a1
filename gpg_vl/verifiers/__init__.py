"""Pure functions that read and compare what a model wrote: total, bounded, linear in the length of the text."""
