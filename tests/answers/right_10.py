"""Right answers to the exercises of lesson 10, in other styles."""

# %% cut_targets · one box at a time
def cut_targets(masks, index, boxes, cells):
    height, width = masks.shape[1:]
    targets = torch.zeros(len(boxes), cells, cells, dtype=torch.bool)
    for r in range(len(boxes)):
        x1, y1, x2, y2 = boxes[r]
        along_y = axis_weights(y1[None], y2[None], cells, height, 0)[0]
        along_x = axis_weights(x1[None], x2[None], cells, width, 0)[0]
        targets[r] = along_y @ masks[index[r]].float() @ along_x.T >= 0.5
    return targets


# %% cut_targets · einsum
def cut_targets(masks, index, boxes, cells):
    (x1, y1, x2, y2), (height, width) = boxes.T, masks.shape[1:]
    along_y = axis_weights(y1, y2, cells, height, 0)
    along_x = axis_weights(x1, x2, cells, width, 0)
    shares = torch.einsum("rih,rhw,rjw->rij", along_y, masks[index].to(boxes.dtype), along_x)
    return shares.ge(0.5)


# %% cut_targets · round trip through NumPy in float64
def cut_targets(masks, index, boxes, cells):
    height, width = masks.shape[1:]
    along_y = axis_weights(boxes[:, 1], boxes[:, 3], cells, height, 0).numpy().astype(np.float64)
    along_x = axis_weights(boxes[:, 0], boxes[:, 2], cells, width, 0).numpy().astype(np.float64)
    chosen = masks.numpy()[index.numpy()].astype(np.float64)
    return torch.from_numpy(along_y @ chosen @ along_x.transpose(0, 2, 1) >= 0.5)


# %% cut_targets · sums of products, along x first
def cut_targets(masks, index, boxes, cells):
    x1, y1, x2, y2 = boxes.unbind(-1)
    along_x = axis_weights(x1, x2, cells, masks.shape[2], 0)  # (R, cells, W)
    along_y = axis_weights(y1, y2, cells, masks.shape[1], 0)  # (R, cells, H)
    rows = (masks[index][:, :, None] * along_x[:, None]).sum(-1)  # (R, H, cells)
    shares = (rows[:, None] * along_y[..., None]).sum(2)  # (R, cells, cells)
    return ~(shares < 0.5)


# %% cut_targets · bmm, rounding written out
def cut_targets(masks, index, boxes, cells):
    chosen = torch.index_select(masks, 0, index).to(torch.float32)
    x1, y1, x2, y2 = boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3]
    left = axis_weights(y1, y2, cells, masks.size(1), 0)
    right = axis_weights(x1, x2, cells, masks.size(2), 0).transpose(1, 2)
    return torch.bmm(torch.bmm(left, chosen), right).add(0.5).floor().bool()


# %% class_masks · the whole layer, then a choice
def class_masks(features, weight, bias, labels):
    every = F.conv2d(features, weight, bias)
    return every[torch.arange(len(labels)), labels]


# %% class_masks · loop over ROIs
def class_masks(features, weight, bias, labels):
    masks = torch.empty(len(labels), *features.shape[2:])
    for r, k in enumerate(labels.tolist()):
        masks[r] = F.conv2d(features[r : r + 1], weight[k : k + 1], bias[k : k + 1])[0, 0]
    return masks


# %% class_masks · einsum
def class_masks(features, weight, bias, labels):
    logits = torch.einsum("rchw,rc->rhw", features, weight.squeeze(-1).squeeze(-1)[labels])
    return logits + bias[labels].view(-1, 1, 1)


# %% class_masks · one group a ROI
def class_masks(features, weight, bias, labels):
    rois, channels, height, width = features.shape
    if rois == 0:
        return features.new_zeros(0, height, width)
    stacked = features.reshape(1, rois * channels, height, width)
    return F.conv2d(stacked, weight[labels], bias[labels], groups=rois)[0]


# %% class_masks · round trip through NumPy
def class_masks(features, weight, bias, labels):
    x, w, b, k = features.numpy(), weight.numpy()[:, :, 0, 0], bias.numpy(), labels.numpy()
    logits = np.zeros((len(x), *x.shape[2:]), dtype=np.float64)
    for c in range(x.shape[1]):
        logits += w[k, c][:, None, None] * x[:, c]
    return torch.from_numpy((logits + b[k][:, None, None]).astype(np.float32))


# %% class_masks · gather along the classes
def class_masks(features, weight, bias, labels):
    every = torch.tensordot(features, weight.flatten(1), dims=([1], [1])) + bias  # (R, M, M, K)
    wanted = labels[:, None, None, None].expand(*every.shape[:3], 1)
    return every.gather(-1, wanted).squeeze(-1)


# %% widened_kernel · weight by weight
def widened_kernel(kernel):
    channels, _, k, _ = kernel.shape
    wide = torch.zeros(channels, 1, k + 1, k + 1)
    for c in range(channels):
        for i in range(k):
            for j in range(k):
                for down in (0, 1):
                    for right in (0, 1):
                        wide[c, 0, k - 1 - i + down, k - 1 - j + right] += kernel[c, 0, i, j]
    return wide


# %% widened_kernel · a convolution with four ones
def widened_kernel(kernel):
    return F.conv_transpose2d(kernel.flip((2, 3)), torch.ones(1, 1, 2, 2))


# %% widened_kernel · padded and added up
def widened_kernel(kernel):
    turned = torch.rot90(kernel, 2, (-2, -1))
    rows = F.pad(turned, (0, 1)) + F.pad(turned, (1, 0))
    return F.pad(rows, (0, 0, 0, 1)) + F.pad(rows, (0, 0, 1, 0))


# %% widened_kernel · matrices on both sides
def widened_kernel(kernel):
    k = kernel.shape[-1]
    spread = torch.eye(k + 1)[:, :k] + torch.eye(k + 1)[:, 1:]  # (k + 1, k)
    return torch.einsum("ai,ncij,bj->ncab", spread, kernel.flip(-1).flip(-2), spread)


# %% widened_kernel · round trip through NumPy
def widened_kernel(kernel):
    turned = kernel.numpy()[:, :, ::-1, ::-1]
    wide = np.pad(turned, ((0, 0), (0, 0), (1, 1), (1, 1))).cumsum(-1).cumsum(-2)
    sums = np.pad(wide, ((0, 0), (0, 0), (2, 0), (2, 0)))
    windows = sums[..., 2:, 2:] - sums[..., :-2, 2:] - sums[..., 2:, :-2] + sums[..., :-2, :-2]
    return torch.from_numpy(windows[..., 1:, 1:].copy())


# %% widened_kernel · mean of windows, times four
def widened_kernel(kernel):
    turned = torch.flip(kernel, dims=[2, 3]).double()
    return (F.avg_pool2d(turned, 2, stride=1, padding=1) * 4).to(kernel.dtype)


# %% paste_masks · pixel by pixel
def paste_masks(masks, boxes, size):
    cells, pasted = masks.shape[-1], torch.zeros(len(masks), *size)

    def value(mask, row, column):
        inside = 0 <= row < cells and 0 <= column < cells
        return float(mask[row, column]) if inside else 0.0

    for d, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        for j in range(size[0]):
            for i in range(size[1]):
                y = (j + 0.5 - y1) / (y2 - y1) * cells - 0.5
                x = (i + 0.5 - x1) / (x2 - x1) * cells - 0.5
                top, left = math.floor(y), math.floor(x)
                v, u = y - top, x - left
                pasted[d, j, i] = (
                    value(masks[d], top, left) * (1 - v) * (1 - u)
                    + value(masks[d], top, left + 1) * (1 - v) * u
                    + value(masks[d], top + 1, left) * v * (1 - u)
                    + value(masks[d], top + 1, left + 1) * v * u
                )
    return pasted


# %% paste_masks · grid_sample, as Detectron2 does
def paste_masks(masks, boxes, size):
    if len(boxes) == 0:
        return torch.zeros(0, *size)
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    y = (torch.arange(size[0]) + 0.5 - y1) / (y2 - y1) * 2 - 1  # (D, H)
    x = (torch.arange(size[1]) + 0.5 - x1) / (x2 - x1) * 2 - 1  # (D, W)
    grid = torch.stack(
        [x[:, None].expand(-1, size[0], -1), y[:, :, None].expand(-1, -1, size[1])], -1
    )
    return F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]


# %% paste_masks · round trip through NumPy, np.interp along each axis
def paste_masks(masks, boxes, size):
    cells, pasted = masks.shape[-1], np.zeros((len(masks), *size))
    places = np.arange(-1, cells + 1)
    for d, (mask, box) in enumerate(zip(masks.numpy(), boxes.numpy(), strict=True)):
        x1, y1, x2, y2 = box.astype(float)
        y = (np.arange(size[0]) + 0.5 - y1) / (y2 - y1) * cells - 0.5
        x = (np.arange(size[1]) + 0.5 - x1) / (x2 - x1) * cells - 0.5
        padded = np.pad(mask, 1)
        rows = np.stack([np.interp(x, places, row) for row in padded])  # (M + 2, W)
        pasted[d] = np.stack([np.interp(y, places, column) for column in rows.T], 1)
    return torch.from_numpy(pasted).float()


# %% paste_masks · einsum in float64
def weights(start, end, pixels, cells):
    middle = torch.arange(pixels, dtype=torch.float64) + 0.5
    place = (middle - start[:, None]) * cells / (end - start)[:, None] - 0.5
    away = (place[:, :, None] - torch.arange(cells)).abs()
    return torch.where(away < 1, 1 - away, 0.0)


def paste_masks(masks, boxes, size):
    x1, y1, x2, y2 = boxes.double().T
    along_y = weights(y1, y2, size[0], masks.shape[1])
    along_x = weights(x1, x2, size[1], masks.shape[2])
    return torch.einsum("dhi,dij,dwj->dhw", along_y, masks.double(), along_x).float()


# %% paste_masks · four corners by indexing a padded mask
def paste_masks(masks, boxes, size):
    cells = masks.shape[-1]
    padded = F.pad(masks, (2, 2, 2, 2))
    x1, y1, x2, y2 = (boxes[:, i, None] for i in range(4))
    y = (((torch.arange(size[0]) + 0.5) - y1) / ((y2 - y1) / cells) - 0.5).clamp(-1.5, cells + 0.5)
    x = (((torch.arange(size[1]) + 0.5) - x1) / ((x2 - x1) / cells) - 0.5).clamp(-1.5, cells + 0.5)
    top, left = y.floor().long(), x.floor().long()
    v, u = (y - top)[:, :, None], (x - left)[:, None]
    which = torch.arange(len(masks))[:, None, None]

    def at(down, right):
        return padded[which, (top + down + 2)[:, :, None], (left + right + 2)[:, None]]

    upper = at(0, 0) * (1 - u) + at(0, 1) * u
    lower = at(1, 0) * (1 - u) + at(1, 1) * u
    return upper * (1 - v) + lower * v


# %% run_lengths · pixel by pixel
def run_lengths(mask):
    runs, inside, length = [], False, 0
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if bool(mask[y, x]) != inside:
                runs.append(length)
                inside, length = not inside, 0
            length += 1
    return [*runs, length]


# %% run_lengths · itertools.groupby
def run_lengths(mask):
    values = mask.t().reshape(-1).tolist()
    runs = [len(list(run)) for _, run in itertools.groupby(values)]
    return [0] + runs if values[0] else runs


# %% run_lengths · differences in NumPy, column order
def run_lengths(mask):
    values = mask.numpy().flatten(order="F").astype(np.int8)
    borders = np.flatnonzero(np.diff(np.concatenate([[0], values]))).tolist()
    return np.diff([0, *borders, len(values)]).tolist()


# %% run_lengths · unique_consecutive
def run_lengths(mask):
    values, counts = torch.unique_consecutive(mask.mT.flatten(), return_counts=True)
    return [0] * int(values[0]) + counts.tolist()


# %% run_lengths · as text
def run_lengths(mask):
    import re

    text = "".join("#" if v else "." for column in mask.T.tolist() for v in column)
    runs = [len(run) for run in re.findall(r"#+|\.+", text)]
    return [0, *runs] if text.startswith("#") else runs
