# %% conv_cost · every kernel counted in loops
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    weights = 0
    for _ in range(out_channels):
        for _ in range(in_channels // groups):
            weights += kernel**2
    cells = 0
    for _ in range(0, size[0], stride):
        for _ in range(0, size[1], stride):
            cells += 1
    parameters = weights
    if bias:
        parameters += out_channels
    return parameters, weights * cells


# %% conv_cost · asks a real convolution
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    conv = torch.nn.Conv2d(
        in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=bias
    )
    out = conv(torch.zeros(1, in_channels, *size))
    parameters = sum(p.numel() for p in conv.parameters())
    return parameters, conv.weight.numel() * out.shape[2] * out.shape[3]


# %% conv_cost · NumPy integers
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    weights = np.prod([out_channels, in_channels // groups, kernel, kernel])
    cells = np.prod(-(-np.array(size) // stride))
    return weights + np.int64(bias) * out_channels, weights * cells


# %% conv_cost · the formula of the output's size, a list
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    h, w = [(edge + 2 * (kernel // 2) - kernel) // stride + 1 for edge in size]
    weights = in_channels * out_channels // groups * kernel * kernel
    return [weights + (out_channels if bias else 0), weights * h * w]


# %% conv_cost · group by group, tensors without dimensions
def conv_cost(in_channels, out_channels, kernel, size, stride=1, groups=1, bias=False):
    a_group = (in_channels // groups) * (out_channels // groups) * kernel * kernel
    weights = torch.tensor([a_group] * groups).sum()
    h, w = (edge + stride - 1 for edge in size)
    return weights + bias * out_channels, weights * (h // stride) * (w // stride)


# %% round_channels · searches the multiples
def round_channels(wish, divisor=8):
    best = divisor
    multiple = divisor
    while multiple <= wish + divisor:
        if abs(multiple - wish) <= abs(best - wish):
            best = multiple
        multiple += divisor
    if best < 0.95 * wish:
        best += divisor
    return best


# %% round_channels · remainder
def round_channels(wish, divisor=8):
    whole, left = divmod(wish, divisor)
    count = int(whole) + (1 if left >= divisor / 2 else 0)
    count = max(count, 1) * divisor
    while count < 0.95 * wish:
        count = count + divisor
    return count


# %% round_channels · MobileNet's own line
def round_channels(wish, divisor=8):
    new = max(divisor, int(wish + divisor / 2) // divisor * divisor)
    if new < 0.95 * wish:
        new += divisor
    return new


# %% round_channels · NumPy
def round_channels(wish, divisor=8):
    multiples = np.arange(1, math.ceil(wish / divisor) + 2) * divisor
    distances = np.abs(multiples - wish)
    nearest = multiples[distances == distances.min()].max()
    return nearest + divisor if nearest < 0.95 * wish else nearest


# %% round_channels · in torch
def round_channels(wish, divisor=8):
    q = torch.tensor(wish, dtype=torch.float64) / divisor
    count = (torch.floor(q + 0.5).clamp(min=1) * divisor).long()
    return torch.where(count < 0.95 * wish, count + divisor, count)


# %% channel_shuffle · one channel after the other
def channel_shuffle(x, groups):
    out = torch.empty_like(x)
    each = x.shape[1] // groups
    for place in range(x.shape[1]):
        out[:, place] = x[:, (place % groups) * each + place // groups]
    return out


# %% channel_shuffle · as the hint says
def channel_shuffle(x, groups):
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).swapaxes(1, 2).reshape(n, c, h, w)


# %% channel_shuffle · an index
def channel_shuffle(x, groups):
    order = torch.arange(x.shape[1]).view(groups, -1).T.flatten()
    return x[:, order]


# %% channel_shuffle · torch's own
def channel_shuffle(x, groups):
    return F.channel_shuffle(x, groups)


# %% channel_shuffle · chunks stacked
def channel_shuffle(x, groups):
    return torch.stack(x.chunk(groups, dim=1), dim=2).flatten(1, 2)


# %% channel_shuffle · round trip through NumPy
def channel_shuffle(x, groups):
    n, c, h, w = x.shape
    a = x.numpy().reshape(n, groups, c // groups, h, w).transpose(0, 2, 1, 3, 4)
    return torch.from_numpy(np.ascontiguousarray(a).reshape(n, c, h, w))


# %% channel_shuffle · a permutation matrix and einsum
def channel_shuffle(x, groups):
    c = x.shape[1]
    order = torch.arange(c).view(groups, c // groups).t().reshape(-1)
    return torch.einsum("oc,nchw->nohw", torch.eye(c)[order], x)


# %% squeeze_excite · F.linear
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    hidden = F.relu(F.linear(x.mean(dim=(-2, -1)), reduce_weight, reduce_bias))
    gates = torch.sigmoid(F.linear(hidden, expand_weight, expand_bias))
    return x * gates.unsqueeze(-1).unsqueeze(-1)


# %% squeeze_excite · as 1x1 convolutions
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    s = F.adaptive_avg_pool2d(x, 1)
    s = F.conv2d(s, reduce_weight[:, :, None, None], reduce_bias).clamp(min=0)
    return x * F.conv2d(s, expand_weight[:, :, None, None], expand_bias).sigmoid()


# %% squeeze_excite · einsum
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    mean = torch.einsum("nchw->nc", x) / (x.shape[2] * x.shape[3])
    hidden = torch.einsum("nc,sc->ns", mean, reduce_weight) + reduce_bias
    gates = torch.einsum("ns,cs->nc", hidden.relu(), expand_weight) + expand_bias
    return torch.einsum("nchw,nc->nchw", x, 1 / (1 + torch.exp(-gates)))


# %% squeeze_excite · loops over images and channels
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    out = x.clone()
    for n in range(len(x)):
        mean = torch.stack([channel.mean() for channel in x[n]])
        hidden = torch.stack([w @ mean + b for w, b in zip(reduce_weight, reduce_bias)])
        hidden = torch.maximum(hidden, torch.zeros_like(hidden))
        for c in range(x.shape[1]):
            out[n, c] = x[n, c] * torch.sigmoid(expand_weight[c] @ hidden + expand_bias[c])
    return out


# %% squeeze_excite · NumPy in double precision
def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
    a = x.double().numpy()
    hidden = np.maximum(a.mean((2, 3)) @ reduce_weight.double().numpy().T + reduce_bias.numpy(), 0)
    gates = 1 / (1 + np.exp(-(hidden @ expand_weight.double().numpy().T + expand_bias.numpy())))
    return torch.tensor(a * gates[:, :, None, None], dtype=x.dtype)
