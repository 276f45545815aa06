"""Pictures in, detections or classes out."""
