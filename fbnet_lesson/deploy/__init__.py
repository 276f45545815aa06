"""A trained model made ready for use."""
