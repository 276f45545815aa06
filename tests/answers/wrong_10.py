"""Wrong answers to the exercises of lesson 10, as a learner would write them from the stub."""

# %% cut_targets · one mask a box, in their order · which box is about which object
def cut_targets(masks, index, boxes, cells):
    height, width = masks.shape[1:]
    x1, y1, x2, y2 = boxes.unbind(1)
    along_y = axis_weights(y1, y2, cells, height, 0)
    along_x = axis_weights(x1, x2, cells, width, 0)
    chosen = masks[torch.arange(len(boxes)) % len(masks)].float()
    return along_y @ chosen @ along_x.mT >= 0.5


# %% cut_targets · columns of the box mixed up · x along y
def cut_targets(masks, index, boxes, cells):
    y1, x1, y2, x2 = boxes.unbind(1)
    along_y = axis_weights(y1, y2, cells, masks.shape[1], 0)
    along_x = axis_weights(x1, x2, cells, masks.shape[2], 0)
    return torch.einsum("rih,rhw,rjw->rij", along_y, masks[index].float(), along_x) >= 0.5


# %% cut_targets · more than a half · exactly half
def cut_targets(masks, index, boxes, cells):
    x1, y1, x2, y2 = boxes.unbind(1)
    along_y = axis_weights(y1, y2, cells, masks.shape[1], 0)
    along_x = axis_weights(x1, x2, cells, masks.shape[2], 0)
    return torch.bmm(torch.bmm(along_y, masks[index].float()), along_x.mT) > 0.5


# %% cut_targets · cut out in whole pixels and resized
def cut_targets(masks, index, boxes, cells):
    targets = torch.zeros(len(boxes), cells, cells, dtype=torch.bool)
    for r, box in enumerate(boxes):
        x1, y1, x2, y2 = box.round().int().tolist()
        part = masks[index[r], y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)].float()
        targets[r] = F.interpolate(part[None, None], (cells, cells))[0, 0] >= 0.5
    return targets


# %% cut_targets · shares, not yet compared · shares instead of object or not
def cut_targets(masks, index, boxes, cells):
    x1, y1, x2, y2 = boxes.unbind(1)
    along_y = axis_weights(y1, y2, cells, masks.shape[1], 0)
    along_x = axis_weights(x1, x2, cells, masks.shape[2], 0)
    return along_y @ masks[index].float() @ along_x.mT


# %% class_masks · the first of the classes for all
def class_masks(features, weight, bias, labels):
    return F.conv2d(features, weight, bias)[:, 0]


# %% class_masks · no bias · forgets the bias
def class_masks(features, weight, bias, labels):
    return torch.einsum("rchw,rc->rhw", features, weight[labels][:, :, 0, 0])


# %% class_masks · a channel for a class each, every pair of ROI and label
def class_masks(features, weight, bias, labels):
    return F.conv2d(features, weight, bias)[:, labels]


# %% class_masks · sigmoid · probabilities
def class_masks(features, weight, bias, labels):
    every = F.conv2d(features, weight, bias).sigmoid()
    return every[torch.arange(len(labels)), labels]


# %% class_masks · a background counted in · counts classes from 1
def class_masks(features, weight, bias, labels):
    every = F.conv2d(features, weight, bias)
    return every[torch.arange(len(labels)), labels - 1]


# %% widened_kernel · added without turning round · turn the kernel round
def widened_kernel(kernel):
    rows = F.pad(kernel, (0, 1)) + F.pad(kernel, (1, 0))
    return F.pad(rows, (0, 0, 0, 1)) + F.pad(rows, (0, 0, 1, 0))


# %% widened_kernel · rows alone turned round · turns only the rows round
def widened_kernel(kernel):
    return F.conv_transpose2d(kernel.flip(2), torch.ones(1, 1, 2, 2))


# %% widened_kernel · resized by interpolation
def widened_kernel(kernel):
    k = kernel.shape[-1]
    return F.interpolate(kernel.flip(2, 3), (k + 1, k + 1), mode="bilinear")


# %% widened_kernel · mean of the neighbours · mean of weights that meet
def widened_kernel(kernel):
    return F.avg_pool2d(kernel.flip(2, 3), 2, stride=1, padding=1)


# %% widened_kernel · assigned, not added · overwrites where weights meet
def widened_kernel(kernel):
    k = kernel.shape[-1]
    wide = torch.zeros(len(kernel), 1, k + 1, k + 1)
    for down in (0, 1):
        for right in (0, 1):
            wide[:, :, down : down + k, right : right + k] = kernel.flip(-2, -1)
    return wide


# %% paste_masks · grid_sample with aligned corners · outermost cells onto the border
def paste_masks(masks, boxes, size):
    if len(boxes) == 0:
        return torch.zeros(0, *size)
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    y = (torch.arange(size[0]) + 0.5 - y1) / (y2 - y1) * (masks.shape[-1] - 1)
    x = (torch.arange(size[1]) + 0.5 - x1) / (x2 - x1) * (masks.shape[-1] - 1)
    along_y = (1 - (y[..., None] - torch.arange(masks.shape[-1])).abs()).clamp(min=0)
    along_x = (1 - (x[..., None] - torch.arange(masks.shape[-1])).abs()).clamp(min=0)
    return along_y @ masks @ along_x.mT


# %% paste_masks · pixels at their corners · half pixel of the picture
def paste_masks(masks, boxes, size):
    if len(boxes) == 0:
        return torch.zeros(0, *size)
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    y = (torch.arange(size[0]) - y1) / (y2 - y1) * 2 - 1
    x = (torch.arange(size[1]) - x1) / (x2 - x1) * 2 - 1
    grid = torch.stack(
        [x[:, None].expand(-1, size[0], -1), y[:, :, None].expand(-1, -1, size[1])], -1
    )
    return F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]


# %% paste_masks · the border's value goes on · outermost cells beyond the box
def paste_masks(masks, boxes, size):
    if len(boxes) == 0:
        return torch.zeros(0, *size)
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    y = (torch.arange(size[0]) + 0.5 - y1) / (y2 - y1) * 2 - 1
    x = (torch.arange(size[1]) + 0.5 - x1) / (x2 - x1) * 2 - 1
    grid = torch.stack(
        [x[:, None].expand(-1, size[0], -1), y[:, :, None].expand(-1, -1, size[1])], -1
    )
    return F.grid_sample(masks[:, None], grid, padding_mode="border", align_corners=False)[:, 0]


# %% paste_masks · the nearest cell · cell that a pixel lies in
def paste_masks(masks, boxes, size):
    pasted, cells = torch.zeros(len(masks), *size), masks.shape[-1]
    for d, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        for j in range(size[0]):
            for i in range(size[1]):
                y = math.floor((j + 0.5 - y1) / (y2 - y1) * cells)
                x = math.floor((i + 0.5 - x1) / (x2 - x1) * cells)
                if 0 <= y < cells and 0 <= x < cells:
                    pasted[d, j, i] = masks[d, y, x]
    return pasted


# %% paste_masks · a mask of bools
def paste_masks(masks, boxes, size):
    (height, width), cells = size, masks.shape[-1]
    x1, y1, x2, y2 = boxes[..., None].unbind(1)
    y = (torch.arange(height) + 0.5 - y1) / (y2 - y1) * cells - 0.5
    x = (torch.arange(width) + 0.5 - x1) / (x2 - x1) * cells - 0.5
    along_y = (1 - (y[..., None] - torch.arange(cells)).abs()).clamp(min=0)
    along_x = (1 - (x[..., None] - torch.arange(cells)).abs()).clamp(min=0)
    return along_y @ masks @ along_x.mT >= 0.5


# %% run_lengths · rows · reads row by row
def run_lengths(mask):
    values, counts = torch.unique_consecutive(mask.flatten(), return_counts=True)
    return [0] * int(values[0]) + counts.tolist()


# %% run_lengths · groupby alone · begins with the first pixel
def run_lengths(mask):
    return [len(list(run)) for _, run in itertools.groupby(mask.T.flatten().tolist())]


# %% run_lengths · forgot the last run
def run_lengths(mask):
    runs, inside, length = [], False, 0
    for pixel in mask.T.flatten().tolist():
        if pixel != inside:
            runs.append(length)
            inside, length = pixel, 0
        length += 1
    return runs


# %% run_lengths · every column a row of its own · begins anew in each column
def run_lengths(mask):
    runs = []
    for column in mask.T.tolist():
        if column[0]:
            runs.append(0)
        runs += [len(list(run)) for _, run in itertools.groupby(column)]
    return runs


# %% run_lengths · differences of places, one short
def run_lengths(mask):
    values = mask.T.flatten()
    changes = (values[1:] != values[:-1]).nonzero().flatten().tolist()
    return [b - a for a, b in zip([0, *changes], [*changes, len(values)])]
