# %% blocks_of · right · namedtuple arithmetic, one long comprehension
def blocks_of(text, in_channels):
    rows = [row for row in parse_rows(text) for _ in range(row.repeat)]
    firsts = [n == 0 for row in parse_rows(text) for n in range(row.repeat)]
    ins = [in_channels, *[row.channels for row in rows]]
    return [
        (
            row.op,
            row.kernel,
            ins[i],
            row.channels,
            row.stride if first else 1,
            row.expansion,
            row.padding if first and row.padding is not None else row.kernel // 2,
        )
        for i, (row, first) in enumerate(zip(rows, firsts, strict=True))
    ]


# %% blocks_of · right · a queue that is filled from behind
def blocks_of(text: str, in_channels: int) -> list:
    out = []
    for row in parse_rows(text):
        todo = row.repeat
        while todo:
            first = todo == row.repeat
            pad = row.kernel // 2
            if first and row.padding is not None:
                pad = row.padding
            stride = row.stride if first else 1
            out.append((row.op, row.kernel, in_channels, row.channels, stride, row.expansion, pad))
            in_channels = row.channels
            todo -= 1
    return out


# %% blocks_of · wrong · the first block's input for all blocks of a row
def blocks_of(text, in_channels):
    blocks = []
    for row in parse_rows(text):
        pad = row.kernel // 2 if row.padding is None else row.padding
        for n in range(row.repeat):
            blocks.append(
                (
                    row.op, row.kernel, in_channels, row.channels,
                    row.stride if n == 0 else 1, row.expansion, pad if n == 0 else row.kernel // 2,
                )
            )
        in_channels = row.channels
    return blocks


# %% blocks_of · wrong · stride in the last block
def blocks_of(text, in_channels):
    blocks = []
    for row in parse_rows(text):
        pad = row.kernel // 2 if row.padding is None else row.padding
        for n in range(row.repeat):
            last = n == row.repeat - 1
            blocks.append(
                (
                    row.op, row.kernel, in_channels, row.channels,
                    row.stride if last else 1, row.expansion, pad if n == 0 else row.kernel // 2,
                )
            )
            in_channels = row.channels
    return blocks


# %% blocks_of · wrong · padding of the row in all its blocks
def blocks_of(text, in_channels):
    blocks = []
    for row in parse_rows(text):
        pad = row.kernel // 2 if row.padding is None else row.padding
        for n in range(row.repeat):
            stride = row.stride if n == 0 else 1
            blocks.append(
                (row.op, row.kernel, in_channels, row.channels, stride, row.expansion, pad)
            )
            in_channels = row.channels
    return blocks


# %% blocks_of · wrong · padding 0 taken for none given
def blocks_of(text, in_channels):
    blocks = []
    for row in parse_rows(text):
        for n in range(row.repeat):
            pad = (row.padding if n == 0 else None) or row.kernel // 2
            stride = row.stride if n == 0 else 1
            blocks.append(
                (row.op, row.kernel, in_channels, row.channels, stride, row.expansion, pad)
            )
            in_channels = row.channels
    return blocks


# %% blocks_of · wrong · a row once, whatever it repeats
def blocks_of(text, in_channels):
    blocks = []
    for row in parse_rows(text):
        pad = row.kernel // 2 if row.padding is None else row.padding
        blocks.append(
            (row.op, row.kernel, in_channels, row.channels, row.stride, row.expansion, pad)
        )
        in_channels = row.channels
    return blocks


# %% blocks_of · wrong · the expanded width in the place of the expansion
def blocks_of(text, in_channels):
    blocks = []
    for row in parse_rows(text):
        pad = row.kernel // 2 if row.padding is None else row.padding
        for n in range(row.repeat):
            blocks.append(
                (
                    row.op, row.kernel, in_channels, row.channels, row.stride if n == 0 else 1,
                    row.expansion * in_channels, pad if n == 0 else row.kernel // 2,
                )
            )
            in_channels = row.channels
    return blocks


# %% block_cost · right · a list of three layers, summed
def block_cost(in_channels, out_channels, kernel, size, stride=1, expansion=1, keep_pw=False):
    mid = middle_width(in_channels, expansion)
    before = size[0] * size[1]
    after = math.ceil(size[0] / stride) * math.ceil(size[1] / stride)
    layers = [(mid, kernel * kernel * mid, after), (out_channels, mid * out_channels, after)]
    if keep_pw or mid != in_channels:
        layers.insert(0, (mid, in_channels * mid, before))
    parameters = sum(weights + 2 * width for width, weights, _ in layers)
    return int(parameters), int(sum(weights * cells for _, weights, cells in layers))


# %% block_cost · wrong · the norm of the left-out convolution still counted
def block_cost(in_channels, out_channels, kernel, size, stride=1, expansion=1, keep_pw=False):
    mid = middle_width(in_channels, expansion)
    after = -(-size[0] // stride) * -(-size[1] // stride)
    parameters = 2 * mid + mid * kernel**2 + 2 * mid + mid * out_channels + 2 * out_channels
    macs = (mid * kernel**2 + mid * out_channels) * after
    if keep_pw or mid != in_channels:
        parameters += in_channels * mid
        macs += in_channels * mid * size[0] * size[1]
    return parameters, macs


# %% block_cost · wrong · everything on the map that comes out
def block_cost(in_channels, out_channels, kernel, size, stride=1, expansion=1, keep_pw=False):
    mid = middle_width(in_channels, expansion)
    after = -(-size[0] // stride) * -(-size[1] // stride)
    weights = mid * kernel**2 + mid * out_channels
    norms = 2 * mid + 2 * out_channels
    if keep_pw or mid != in_channels:
        weights += in_channels * mid
        norms += 2 * mid
    return weights + norms, weights * after


# %% block_cost · wrong · rounded down
def block_cost(in_channels, out_channels, kernel, size, stride=1, expansion=1, keep_pw=False):
    mid = middle_width(in_channels, expansion)
    after = (size[0] // stride) * (size[1] // stride)
    parameters = mid * kernel**2 + 2 * mid + mid * out_channels + 2 * out_channels
    macs = (mid * kernel**2 + mid * out_channels) * after
    if keep_pw or mid != in_channels:
        parameters += in_channels * mid + 2 * mid
        macs += in_channels * mid * size[0] * size[1]
    return parameters, macs


# %% block_cost · wrong · a dense convolution in the middle
def block_cost(in_channels, out_channels, kernel, size, stride=1, expansion=1, keep_pw=False):
    mid = middle_width(in_channels, expansion)
    after = -(-size[0] // stride) * -(-size[1] // stride)
    parameters = mid * mid * kernel**2 + 2 * mid + mid * out_channels + 2 * out_channels
    macs = (mid * mid * kernel**2 + mid * out_channels) * after
    if keep_pw or mid != in_channels:
        parameters += in_channels * mid + 2 * mid
        macs += in_channels * mid * size[0] * size[1]
    return parameters, macs


# %% block_cost · wrong · the middle width not rounded to whole channels of eight
def block_cost(in_channels, out_channels, kernel, size, stride=1, expansion=1, keep_pw=False):
    mid = int(in_channels * expansion)
    after = -(-size[0] // stride) * -(-size[1] // stride)
    parameters = mid * kernel**2 + 2 * mid + mid * out_channels + 2 * out_channels
    macs = (mid * kernel**2 + mid * out_channels) * after
    if keep_pw or mid != in_channels:
        parameters += in_channels * mid + 2 * mid
        macs += in_channels * mid * size[0] * size[1]
    return parameters, macs


# %% block_cost · wrong · FLOPs, two for each
def block_cost(in_channels, out_channels, kernel, size, stride=1, expansion=1, keep_pw=False):
    mid = middle_width(in_channels, expansion)
    after = -(-size[0] // stride) * -(-size[1] // stride)
    parameters = mid * kernel**2 + 2 * mid + mid * out_channels + 2 * out_channels
    macs = (mid * kernel**2 + mid * out_channels) * after
    if keep_pw or mid != in_channels:
        parameters += in_channels * mid + 2 * mid
        macs += in_channels * mid * size[0] * size[1]
    return parameters, 2 * macs


# %% block_cost · wrong · left out where input and output are equally wide
def block_cost(in_channels, out_channels, kernel, size, stride=1, expansion=1, keep_pw=False):
    mid = middle_width(in_channels, expansion)
    after = -(-size[0] // stride) * -(-size[1] // stride)
    parameters = mid * kernel**2 + 2 * mid + mid * out_channels + 2 * out_channels
    macs = (mid * kernel**2 + mid * out_channels) * after
    if keep_pw or in_channels != out_channels:
        parameters += in_channels * mid + 2 * mid
        macs += in_channels * mid * size[0] * size[1]
    return parameters, macs


# %% receptive_field · right · backwards from one cell
def receptive_field(layers):
    low, high, stride = 0, 0, 1
    for kernel, step, padding in reversed(layers):
        low = low * step - padding
        high = high * step - padding + kernel - 1
        stride *= step
    return high - low + 1, stride, (low + high + 1) / 2


# %% receptive_field · wrong · place without the first half pixel
def receptive_field(layers):
    size, stride, place = 1, 1, 0.0
    for kernel, step, padding in layers:
        place += ((kernel - 1) / 2 - padding) * stride
        size += (kernel - 1) * stride
        stride *= step
    return size, stride, place


# %% receptive_field · wrong · the new stride already in the size
def receptive_field(layers):
    size, stride, place = 1, 1, 0.5
    for kernel, step, padding in layers:
        stride *= step
        place += ((kernel - 1) / 2 - padding) * stride
        size += (kernel - 1) * stride
    return size, stride, place


# %% receptive_field · wrong · kernels multiplied
def receptive_field(layers):
    size, stride, place = 1, 1, 0.5
    for kernel, step, padding in layers:
        place += ((kernel - 1) / 2 - padding) * stride
        size *= kernel
        stride *= step
    return size, stride, place


# %% receptive_field · wrong · the place in whole pixels
def receptive_field(layers):
    size, stride, place = 1, 1, 0.5
    for kernel, step, padding in layers:
        place += ((kernel - 1) // 2 - padding) * stride
        size += (kernel - 1) * stride
        stride *= step
    return size, stride, place


# %% receptive_field · wrong · padding makes the field smaller
def receptive_field(layers):
    size, stride, place = 1, 1, 0.5
    for kernel, step, padding in layers:
        place += ((kernel - 1) / 2 - padding) * stride
        size += (kernel - 1 - padding) * stride
        stride *= step
    return size, stride, place


# %% receptive_field · wrong · strides added
def receptive_field(layers):
    size, stride, place = 1, 1, 0.5
    for kernel, step, padding in layers:
        place += ((kernel - 1) / 2 - padding) * stride
        size += (kernel - 1) * stride
        stride += step - 1
    return size, stride, place


# %% top_down · right · recursion from the finest
def top_down(laterals):
    if len(laterals) < 2:
        return list(laterals)
    coarser = top_down(laterals[1:])
    grown = F.interpolate(coarser[0], scale_factor=2, mode="nearest")
    return [laterals[0] + grown, *coarser]


# %% top_down · wrong · the neighbour as it came, not merged
def top_down(laterals):
    merged = [
        fine + F.interpolate(coarse, scale_factor=2, mode="nearest")
        for fine, coarse in zip(laterals[:-1], laterals[1:], strict=True)
    ]
    return [*merged, laterals[-1]]


# %% top_down · wrong · coarsest first
def top_down(laterals):
    merged = [laterals[-1]]
    for fine in laterals[-2::-1]:
        merged.append(fine + F.interpolate(merged[-1], scale_factor=2, mode="nearest"))
    return merged


# %% top_down · wrong · the whole map repeated side by side
def top_down(laterals):
    merged = [laterals[-1]]
    for fine in laterals[-2::-1]:
        merged.insert(0, fine + merged[0].repeat(1, 1, 2, 2))
    return merged


# %% top_down · wrong · bilinear
def top_down(laterals):
    merged = [laterals[-1]]
    for fine in laterals[-2::-1]:
        grown = F.interpolate(merged[0], scale_factor=2, mode="bilinear", align_corners=False)
        merged.insert(0, fine + grown)
    return merged


# %% top_down · wrong · the mean of both
def top_down(laterals):
    merged = [laterals[-1]]
    for fine in laterals[-2::-1]:
        grown = F.interpolate(merged[0], scale_factor=2, mode="nearest")
        merged.insert(0, (fine + grown) / 2)
    return merged


# %% top_down · wrong · adds into the maps it was given
def top_down(laterals):
    for i in range(len(laterals) - 2, -1, -1):
        laterals[i] += F.interpolate(laterals[i + 1], scale_factor=2, mode="nearest")
    return laterals


# %% top_down · wrong · without the coarsest
def top_down(laterals):
    merged = [laterals[-1]]
    for fine in laterals[-2::-1]:
        merged.insert(0, fine + F.interpolate(merged[0], scale_factor=2, mode="nearest"))
    return merged[:-1]
