"""The colours of the classes, in pictures and in figures."""

# Distinct on a screen, and in greyscale by their lightness (after Okabe and Ito).
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
           (213, 94, 0), (204, 121, 167))  # fmt: skip
