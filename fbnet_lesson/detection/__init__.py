"""From feature maps to detections, in the order of the data's way: one module a step."""
