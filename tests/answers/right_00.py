# %% box_area · unbind
def box_area(boxes):
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x2 - x1) * (y2 - y1)


# %% box_area · loop over the boxes
def area(box):
    x1, y1, x2, y2 = box.tolist()
    return (x2 - x1) * (y2 - y1)


def box_area(boxes):
    areas = torch.zeros(boxes.shape[:-1], dtype=boxes.dtype).flatten()
    for i, box in enumerate(boxes.reshape(-1, 4)):
        areas[i] = area(box)
    return areas.reshape(boxes.shape[:-1])


# %% box_area · round trip through NumPy
def box_area(boxes):
    corners = boxes.numpy().astype(np.float64)
    areas = np.prod(corners[..., 2:] - corners[..., :2], axis=-1)
    return torch.as_tensor(areas, dtype=boxes.dtype)


# %% box_area · sizes multiplied by prod, in double precision
def box_area(boxes):
    sizes = boxes[..., 2:].double() - boxes[..., :2].double()
    return sizes.prod(-1).to(boxes.dtype)


# %% box_area · einsum
def box_area(boxes):
    sizes = boxes[..., 2:] - boxes[..., :2]
    return torch.einsum("...,...->...", sizes[..., 0], sizes[..., 1])
