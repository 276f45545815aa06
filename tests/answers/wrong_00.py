# %% box_area · last pixel counted, and abs · counts the last pixel twice: it adds 1 to width
def box_area(boxes):
    return ((boxes[..., 2] - boxes[..., 0] + 1) * (boxes[..., 3] - boxes[..., 1] + 1)).abs()


# %% box_area · last pixel counted, and abs · , and makes every area positive
def box_area(boxes):
    x1, y1, x2, y2 = boxes.unbind(-1)
    return ((x2 - x1 + 1) * (y2 - y1 + 1)).abs()


# %% box_area · a list
def box_area(boxes):
    return ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).tolist()


# %% box_area · half the area · element [0] is 3, expected 6
def box_area(boxes):
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) / 2
