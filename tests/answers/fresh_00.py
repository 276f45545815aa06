# %% box_area · right · unbind into four names
def box_area(boxes: Tensor) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    return (x2 - x1) * (y2 - y1)


# %% box_area · right · difference of the corners, then prod
def box_area(boxes: Tensor) -> Tensor:
    sides = boxes[..., 2:] - boxes[..., :2]
    return torch.prod(sides, dim=-1)


# %% box_area · wrong · the last two numbers taken for width and height
def box_area(boxes: Tensor) -> Tensor:
    return boxes[..., 2] * boxes[..., 3]


# %% box_area · wrong · sides clamped at zero, so a box turned inside out gives 0
def box_area(boxes: Tensor) -> Tensor:
    w = (boxes[..., 2] - boxes[..., 0]).clamp(min=0)
    h = (boxes[..., 3] - boxes[..., 1]).clamp(min=0)
    return w * h


# %% box_area · wrong · indexes dimension 1, only works for [N, 4]
def box_area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


# %% box_area · wrong · columns read as x1, x2, y1, y2
def box_area(boxes: Tensor) -> Tensor:
    x1, x2, y1, y2 = boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]
    return (x2 - x1) * (y2 - y1)


# %% box_area · wrong · width gets stored in the input on the way
def box_area(boxes: Tensor) -> Tensor:
    boxes[..., 2:] -= boxes[..., :2]
    return boxes[..., 2] * boxes[..., 3]
