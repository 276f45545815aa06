"""The classifiers: networks, what is published of them, and how their pictures are prepared."""
