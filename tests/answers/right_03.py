# %% batch_norm · var with correction 0
def batch_norm(x, weight, bias, eps=1e-5):
    mean = x.mean(dim=[0, 2, 3], keepdim=True)
    var = x.var(dim=[0, 2, 3], unbiased=False, keepdim=True)
    return weight.view(1, -1, 1, 1) * (x - mean) * torch.rsqrt(var + eps) + bias.view(1, -1, 1, 1)


# %% batch_norm · torch's own
def batch_norm(x, weight, bias, eps=1e-5):
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)


# %% batch_norm · channel by channel
def batch_norm(x, weight, bias, eps=1e-5):
    channels = []
    for c in range(x.shape[1]):
        values = x[:, c]
        centred = values - values.mean()
        spread = (centred.pow(2).sum() / values.numel() + eps) ** 0.5
        channels.append(centred / spread * weight[c] + bias[c])
    return torch.stack(channels, dim=1)


# %% batch_norm · a table of channels, in double precision
def batch_norm(x, weight, bias, eps=1e-5):
    n, c, h, w = x.shape
    rows = x.double().transpose(0, 1).reshape(c, n * h * w)
    var, mean = torch.var_mean(rows, dim=1, correction=0, keepdim=True)
    rows = (rows - mean) / (var + eps).sqrt() * weight[:, None] + bias[:, None]
    return rows.reshape(c, n, h, w).transpose(0, 1).to(x.dtype)


# %% batch_norm · einsum, and the raw moments in double precision
def batch_norm(x, weight, bias, eps=1e-5):
    y = x.double()
    count = y.shape[0] * y.shape[2] * y.shape[3]
    mean = torch.einsum("nchw->c", y) / count
    var = torch.einsum("nchw,nchw->c", y, y) / count - mean**2
    slope = weight / torch.sqrt(var + eps)
    out = torch.einsum("nchw,c->nchw", y, slope) + (bias - mean * slope)[:, None, None]
    return out.float()


# %% running_update · lerp
def running_update(running_mean, running_var, x, momentum):
    var, mean = torch.var_mean(x, dim=(0, 2, 3))
    return torch.lerp(running_mean, mean, momentum), torch.lerp(running_var, var, momentum)


# %% running_update · torch's own, on copies
def running_update(running_mean, running_var, x, momentum):
    mean, var = running_mean.clone(), running_var.clone()
    F.batch_norm(x, mean, var, training=True, momentum=momentum)
    return mean, var


# %% running_update · channel by channel, a list of two
def running_update(running_mean, running_var, x, momentum):
    means, variances = [], []
    for c in range(x.shape[1]):
        values = x[:, c].flatten().tolist()
        mean = sum(values) / len(values)
        var = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
        means.append((1 - momentum) * float(running_mean[c]) + momentum * mean)
        variances.append((1 - momentum) * float(running_var[c]) + momentum * var)
    return [torch.tensor(means), torch.tensor(variances)]


# %% running_update · round trip through NumPy
def running_update(running_mean, running_var, x, momentum):
    a = x.numpy().astype(np.float64)
    mean = (1 - momentum) * running_mean.numpy() + momentum * a.mean((0, 2, 3))
    var = (1 - momentum) * running_var.numpy() + momentum * a.var((0, 2, 3), ddof=1)
    return torch.as_tensor(mean, dtype=x.dtype), torch.as_tensor(var, dtype=x.dtype)


# %% running_update · biased, then corrected
def running_update(running_mean, running_var, x, momentum):
    n = x.numel() // x.shape[1]
    mean = torch.einsum("nchw->c", x) / n
    biased = torch.einsum("nchw->c", (x - mean[:, None, None]) ** 2) / n
    return (
        running_mean + momentum * (mean - running_mean),
        running_var + momentum * (biased * n / (n - 1) - running_var),
    )


# %% pool_statistics · worker by worker
def pool_statistics(means, variances, worker_weights):
    total = float(worker_weights.sum())
    mean, var = torch.zeros_like(means[0]), torch.zeros_like(means[0])
    if total == 0:
        return mean, var
    for m, weight in zip(means, worker_weights):
        mean = mean + weight / total * m
    for m, v, weight in zip(means, variances, worker_weights):
        var = var + weight / total * (v + (m - mean) ** 2)
    return mean, var


# %% pool_statistics · matrix products
def pool_statistics(means, variances, worker_weights):
    share = worker_weights / max(worker_weights.sum(), torch.tensor(1.0))
    mean = share @ means
    return mean, share @ variances + share @ (means - mean).square()


# %% pool_statistics · einsum and two terms
def pool_statistics(means, variances, worker_weights):
    share = torch.nan_to_num(worker_weights / worker_weights.sum())
    mean = torch.einsum("k,kc->c", share, means)
    within = torch.einsum("k,kc->c", share, variances)
    between = torch.einsum("k,kc->c", share, (means - mean) ** 2)
    return mean, within + between


# %% pool_statistics · two workers at a time, as Chan and others do
def pool_statistics(means, variances, worker_weights):
    count = torch.tensor(0.0)
    mean, squares = torch.zeros_like(means[0]), torch.zeros_like(means[0])
    for m, v, n in zip(means, variances, worker_weights):
        if n == 0:
            continue
        delta = m - mean
        squares = squares + n * v + delta**2 * count * n / (count + n)
        mean = mean + delta * n / (count + n)
        count = count + n
    return mean, squares / count.clamp(min=1)


# %% pool_statistics · NumPy, the raw moments in double precision
def pool_statistics(means, variances, worker_weights):
    m, v, w = (t.double().numpy() for t in (means, variances, worker_weights))
    if w.sum() == 0:
        return torch.zeros_like(means[0]), torch.zeros_like(means[0])
    mean = np.average(m, axis=0, weights=w)
    var = np.average(v + m**2, axis=0, weights=w) - mean**2
    return torch.from_numpy(mean).float(), torch.from_numpy(var).float()


# %% group_norm · torch's own
def group_norm(x, groups, weight, bias, eps=1e-5):
    return F.group_norm(x, groups, weight, bias, eps)


# %% group_norm · image by image and group by group
def group_norm(x, groups, weight, bias, eps=1e-5):
    each = x.shape[1] // groups
    images = []
    for image in x:
        parts = []
        for g in range(groups):
            part = image[g * each : (g + 1) * each]
            centred = part - part.mean()
            parts.append(centred / ((centred * centred).mean() + eps).sqrt())
        images.append(torch.cat(parts) * weight[:, None, None] + bias[:, None, None])
    return torch.stack(images)


# %% group_norm · rows of one group each
def group_norm(x, groups, weight, bias, eps=1e-5):
    rows = x.reshape(x.shape[0] * groups, -1)
    var, mean = torch.var_mean(rows, dim=1, unbiased=False, keepdim=True)
    out = ((rows - mean) / torch.sqrt(var + eps)).view_as(x)
    return torch.addcmul(bias.view(-1, 1, 1), out, weight.view(-1, 1, 1))


# %% group_norm · as a layer norm of groups, in double precision
def group_norm(x, groups, weight, bias, eps=1e-5):
    grouped = x.double().unflatten(1, (groups, -1))
    out = F.layer_norm(grouped, grouped.shape[2:], eps=eps).flatten(1, 2)
    return (out * weight[:, None, None] + bias[:, None, None]).to(x.dtype)


# %% group_norm · chunks and einsum
def group_norm(x, groups, weight, bias, eps=1e-5):
    parts = []
    for part in x.chunk(groups, dim=1):
        count = part[0].numel()
        mean = torch.einsum("nchw->n", part)[:, None, None, None] / count
        var = torch.einsum("nchw,nchw->n", part - mean, part - mean) / count
        parts.append((part - mean) * (var + eps)[:, None, None, None] ** -0.5)
    return torch.einsum("nchw,c->nchw", torch.cat(parts, 1), weight) + bias[None, :, None, None]
