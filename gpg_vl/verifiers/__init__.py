"""Pure functions that read and compare what a model wrote. Each returns for any text, in time linear in its length."""
