"""The course machine: builds the notebooks. Only the command line imports it."""
