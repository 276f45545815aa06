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


# %% box_area · squares the width
def box_area(boxes: Tensor) -> Tensor:
    w = boxes[..., 2] - boxes[..., 0]
    h = boxes[..., 2] - boxes[..., 0]
    return w * h


# %% box_area · x1 with y1, x2 with y2
def box_area(boxes: Tensor) -> Tensor:
    x1, x2, y1, y2 = boxes.unbind(-1)
    return (x2 - x1) * (y2 - y1)


# %% box_area · differences the wrong way round in one axis
def box_area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 1] - boxes[..., 3])


# %% box_area · unpacks rows instead of columns
def box_area(boxes: Tensor) -> Tensor:
    x1, y1, x2, y2 = boxes
    return (x2 - x1) * (y2 - y1)


# %% box_area · the sum of all areas
def box_area(boxes: Tensor) -> Tensor:
    return ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).sum()


# %% box_area · takes x1 off in place
def box_area(boxes: Tensor) -> Tensor:
    boxes[..., 2:] -= boxes[..., :2]
    return boxes[..., 2] * boxes[..., 3]


# %% box_area · the area of the first box only
def box_area(boxes: Tensor) -> Tensor:
    x1, y1, x2, y2 = boxes.reshape(-1, 4)[0]
    return (x2 - x1) * (y2 - y1)


# %% box_area · each side clamped by itself
def box_area(boxes: Tensor) -> Tensor:
    w = (boxes[..., 2] - boxes[..., 0]).clamp(min=0)
    h = (boxes[..., 3] - boxes[..., 1]).clamp(min=0)
    return w * h


# %% box_area · prints the area and returns nothing
def box_area(boxes: Tensor) -> Tensor:
    print((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]))


# %% box_area · rounds to whole pixels
def box_area(boxes: Tensor) -> Tensor:
    boxes = boxes.long()
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
