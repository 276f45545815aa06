"""Right answers to the exercises of lesson 02, in the styles in which people write them."""

# %% blocks_of · two loops and Block
def blocks_of(text: str, in_channels: int) -> list[Block]:
    result = []
    width = in_channels
    for row in parse_rows(text):
        for number in range(row.repeat):
            first = number == 0
            stride = row.stride if first else 1
            if first and row.padding is not None:
                padding = row.padding
            else:
                padding = row.kernel // 2
            result.append(
                Block(row.op, row.kernel, width, row.channels, stride, row.expansion, padding)
            )
            width = row.channels
    return result


# %% blocks_of · plain tuples, the first block apart from the others
def blocks_of(text, in_channels):
    found = []
    for row in parse_rows(text):
        half = row.kernel // 2
        found += [(row.op, row.kernel, in_channels, row.channels, row.stride, row.expansion,
                   half if row.padding is None else row.padding)]
        found += [(row.op, row.kernel, row.channels, row.channels, 1, row.expansion, half)] * (
            row.repeat - 1
        )
        in_channels = row.channels
    return found


# %% blocks_of · widths in a list of their own
def blocks_of(text, in_channels):
    pairs = [(row, i) for row in parse_rows(text) for i in range(row.repeat)]
    outs = [row.channels for row, _ in pairs]
    ins = [in_channels] + outs[:-1]
    return [
        Block(
            row.op, row.kernel, before, after,
            row.stride if i == 0 else 1,
            row.expansion,
            row.padding if i == 0 and row.padding is not None else row.kernel // 2,
        )
        for (row, i), before, after in zip(pairs, ins, outs)
    ]


# %% blocks_of · a generator, turned into a list
def unrolled(text, width):
    for row in parse_rows(text):
        stride, padding = row.stride, row.padding
        for _ in range(row.repeat):
            pad = padding if padding is not None else (row.kernel - 1) // 2
            yield row.op, row.kernel, width, row.channels, stride, row.expansion, pad
            stride, padding, width = 1, None, row.channels


def blocks_of(text, in_channels):
    return list(unrolled(text, in_channels))


# %% blocks_of · reads the text itself, by split
def blocks_of(text, in_channels):
    found = []
    for part in text.split(";"):
        op, channels, *rest = part.split()
        values = {word[0]: float(word[1:]) for word in rest}
        kernel = int(op.split("_k")[1][0]) if "_k" in op else 1
        for i in range(int(values.get("x", 1))):
            stride = int(values.get("s", 1)) if i == 0 else 1
            padding = int(values.get("p", kernel // 2)) if i == 0 else kernel // 2
            expansion = values.get("e", 1)
            name = op.split("_")[0]
            found.append((name, kernel, in_channels, int(channels), stride, expansion, padding))
            in_channels = int(channels)
    return found


# %% block_cost · step by step
def block_cost(in_channels, out_channels, kernel, size, stride=1, expansion=1, keep_pw=False):
    mid = middle_width(in_channels, expansion)
    h, w = size
    h2, w2 = math.ceil(h / stride), math.ceil(w / stride)
    params = macs = 0
    if keep_pw or mid != in_channels:
        params += in_channels * mid + 2 * mid
        macs += in_channels * mid * h * w
    params += mid * kernel**2 + 2 * mid
    macs += mid * kernel**2 * h2 * w2
    params += mid * out_channels + 2 * out_channels
    macs += mid * out_channels * h2 * w2
    return params, macs


# %% block_cost · a list of convolutions
def block_cost(in_channels, out_channels, kernel, size, stride=1, expansion=1, keep_pw=False):
    mid = middle_width(in_channels, expansion)
    large = size[0] * size[1]
    small = -(-size[0] // stride) * -(-size[1] // stride)
    convs = [(mid * kernel * kernel, mid, small), (mid * out_channels, out_channels, small)]
    if mid != in_channels or keep_pw:
        convs.insert(0, (in_channels * mid, mid, large))
    parameters = sum(weights + 2 * channels for weights, channels, _ in convs)
    return parameters, sum(weights * cells for weights, _, cells in convs)


# %% block_cost · torch tensors
def block_cost(in_channels, out_channels, kernel, size, stride=1, expansion=1, keep_pw=False):
    mid = middle_width(in_channels, expansion)
    edges = torch.tensor(size)
    cells = torch.stack([edges, (edges + stride - 1) // stride]).prod(1)
    pw = in_channels * mid * (keep_pw or mid != in_channels)
    weights = torch.tensor([pw, mid * kernel * kernel, mid * out_channels])
    norms = 2 * (mid * (pw > 0) + mid + out_channels)
    macs = (weights * cells[torch.tensor([0, 1, 1])]).sum()
    return weights.sum() + norms, macs.item()


# %% block_cost · NumPy, in floats until the end
def block_cost(in_channels, out_channels, kernel, size, stride=1, expansion=1, keep_pw=False):
    mid = middle_width(in_channels, expansion)
    after = np.ceil(np.array(size) / stride)
    weights = np.array([in_channels * mid, mid * kernel * kernel, mid * out_channels], float)
    widths = np.array([mid, mid, out_channels], float)
    if mid == in_channels and not keep_pw:
        weights[0] = widths[0] = 0
    cells = np.array([np.prod(size), after.prod(), after.prod()])
    return int(weights.sum() + 2 * widths.sum()), int(weights @ cells)


# %% block_cost · makes the layers, and counts in them
def block_cost(in_channels, out_channels, kernel, size, stride=1, expansion=1, keep_pw=False):
    mid = middle_width(in_channels, expansion)
    x = torch.zeros(1, in_channels, *size)
    layers = [nn.Conv2d(in_channels, mid, 1, bias=False)]
    if mid == in_channels and not keep_pw:
        layers = []
    layers += [
        nn.Conv2d(mid, mid, kernel, stride, kernel // 2, groups=mid, bias=False),
        nn.Conv2d(mid, out_channels, 1, bias=False),
    ]
    parameters = macs = 0
    for layer in layers:
        x = layer(x)
        parameters += layer.weight.numel() + 2 * x.shape[1]
        macs += layer.weight.numel() * x.shape[2] * x.shape[3]
    return parameters, macs


# %% receptive_field · the three lines
def receptive_field(layers):
    size, stride, place = 1, 1, 0.5
    for k, s, p in layers:
        size = size + (k - 1) * stride
        place = place + ((k - 1) / 2 - p) * stride
        stride = stride * s
    return size, stride, place


# %% receptive_field · from the first cell's two ends
def receptive_field(layers):
    first, last, jump = 0, 0, 1
    for kernel, stride, padding in layers:
        first -= padding * jump
        last += (kernel - 1 - padding) * jump
        jump *= stride
    return last - first + 1, jump, (first + last + 1) / 2


# %% receptive_field · backwards from the cell, as ranges
def receptive_field(layers):
    def pixels(cell):
        low = high = cell
        for kernel, stride, padding in reversed(layers):
            low = low * stride - padding
            high = high * stride - padding + kernel - 1
        return low, high

    low, high = pixels(0)
    return high - low + 1, pixels(1)[0] - low, (low + high + 1) / 2


# %% receptive_field · NumPy with cumulative products
def receptive_field(layers):
    if not layers:
        return 1, 1, 0.5
    k, s, p = np.array(layers).T
    before = np.concatenate([[1], np.cumprod(s)])
    size = 1 + ((k - 1) * before[:-1]).sum()
    place = 0.5 + (((k - 1) / 2 - p) * before[:-1]).sum()
    return size, before[-1], place


# %% receptive_field · recursion
def receptive_field(layers):
    if len(layers) == 0:
        return 1, 1, 0.5
    *before, (kernel, stride, padding) = layers
    size, jump, place = receptive_field(before)
    return size + (kernel - 1) * jump, jump * stride, place + (kernel - 1 - 2 * padding) * jump / 2


# %% receptive_field · by impulses through real convolutions
def receptive_field(layers):
    n = 1
    for kernel, stride, _ in layers[::-1]:
        n = n * stride + kernel
    weight = torch.zeros(2, n + 400)  # a row a cell
    low = torch.tensor([0, 1])
    high = low.clone()
    for kernel, stride, padding in layers[::-1]:
        low = low * stride - padding
        high = high * stride - padding + kernel - 1
    weight[0, low[0] + 200 : high[0] + 201] = 1
    size = int(weight[0].sum())
    return size, (low[1] - low[0]).item(), (low[0] + size / 2).item()


# %% top_down · insert in front
def top_down(laterals):
    merged = [laterals[-1]]
    for lateral in laterals[-2::-1]:
        merged.insert(0, lateral + F.interpolate(merged[0], scale_factor=2, mode="nearest"))
    return merged


# %% top_down · repeat_interleave
def top_down(laterals):
    out = list(laterals)
    for i in range(len(out) - 2, -1, -1):
        up = out[i + 1].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        out[i] = out[i] + up
    return out


# %% top_down · NumPy round trip
def top_down(laterals):
    maps = [lateral.numpy().copy() for lateral in laterals]
    for i in reversed(range(len(maps) - 1)):
        maps[i] += np.kron(maps[i + 1], np.ones((1, 1, 2, 2), np.float32))
    return [torch.from_numpy(m) for m in maps]


# %% top_down · loops over cells, backwards list
def top_down(laterals):
    coarser, merged = None, []
    for lateral in reversed(laterals):
        result = lateral.clone()
        if coarser is not None:
            for y in range(result.shape[2]):
                for x in range(result.shape[3]):
                    result[:, :, y, x] += coarser[:, :, y // 2, x // 2]
        merged.append(result)
        coarser = result
    return merged[::-1]


# %% top_down · expand and reshape, in double precision
def twice(x):
    n, c, h, w = x.shape
    return x[:, :, :, None, :, None].expand(n, c, h, 2, w, 2).reshape(n, c, 2 * h, 2 * w)


def top_down(laterals):
    total, found = None, []
    for lateral in laterals[::-1]:
        total = lateral.double() if total is None else lateral.double() + twice(total)
        found = [total.float()] + found
    return found


# %% top_down · every level from all coarser ones, recursively, as a tuple
def top_down(laterals):
    if len(laterals) == 1:
        return (laterals[0] + 0,)
    rest = top_down(laterals[1:])
    up = nn.Upsample(scale_factor=2, mode="nearest")(rest[0])
    return (laterals[0] + up, *rest)


# %% top_down · transposed convolution with a 2 x 2 of ones
def top_down(laterals):
    merged = [laterals[-1]]
    for lateral in reversed(laterals[:-1]):
        c = lateral.shape[1]
        ones = torch.ones(c, 1, 2, 2)
        merged.append(lateral + F.conv_transpose2d(merged[-1], ones, stride=2, groups=c))
    return list(reversed(merged))
