"""The course machine: builds the notebooks and checks exercises. Nothing in the package imports it."""
