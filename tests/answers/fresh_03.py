# %% batch_norm · right · F.batch_norm without running statistics
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    return F.batch_norm(x, None, None, weight, bias, training=True, momentum=0.0, eps=eps)


# %% batch_norm · right · loop over the channels, in doubles
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    channels = []
    for c in range(x.shape[1]):
        v = x[:, c].double()
        centred = v - v.mean()
        v = centred / torch.sqrt((centred * centred).mean() + eps)
        channels.append((v * weight[c] + bias[c]).to(x.dtype))
    return torch.stack(channels, dim=1)


# %% batch_norm · wrong · torch.var's default, the unbiased variance
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    m = x.mean((0, 2, 3), keepdim=True)
    v = x.var((0, 2, 3), keepdim=True)
    return (x - m) / torch.sqrt(v + eps) * weight[:, None, None] + bias[:, None, None]


# %% batch_norm · wrong · eps added to the standard deviation, outside the root
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    m = x.mean((0, 2, 3), keepdim=True)
    s = x.std((0, 2, 3), keepdim=True, correction=0)
    return (x - m) / (s + eps) * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


# %% batch_norm · wrong · E[x^2] - E[x]^2 in float32
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    dims = (0, 2, 3)
    m = x.mean(dims, keepdim=True)
    v = ((x**2).mean(dims, keepdim=True) - m**2).clamp(min=0)
    return (x - m) * (v + eps).rsqrt() * weight[None, :, None, None] + bias[None, :, None, None]


# %% batch_norm · wrong · statistics of each image, as instance norm
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    m = x.mean((2, 3), keepdim=True)
    v = x.var((2, 3), keepdim=True, unbiased=False)
    return (x - m) / (v + eps).sqrt() * weight[:, None, None] + bias[:, None, None]


# %% batch_norm · wrong · eps written into the code, the argument unused
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    m = x.mean((0, 2, 3), keepdim=True)
    v = ((x - m) ** 2).mean((0, 2, 3), keepdim=True)
    return (x - m) / torch.sqrt(v + 1e-5) * weight[:, None, None] + bias[:, None, None]


# %% running_update · right · lerp
def running_update(running_mean, running_var, x, momentum):
    var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=1)
    return torch.lerp(running_mean, mean, momentum), torch.lerp(running_var, var, momentum)


# %% running_update · right · channels first and flattened, sum of squares by hand
def running_update(running_mean, running_var, x, momentum):
    values = x.transpose(0, 1).reshape(x.shape[1], -1)
    n = values.shape[1]
    mean = values.sum(1) / n
    var = ((values - mean[:, None]) ** 2).sum(1) / (n - 1)
    new_mean = (1 - momentum) * running_mean + momentum * mean
    new_var = (1 - momentum) * running_var + momentum * var
    return new_mean, new_var


# %% running_update · wrong · momentum as in an optimiser: the share of the old value
def running_update(running_mean, running_var, x, momentum):
    m = x.mean((0, 2, 3))
    v = x.var((0, 2, 3))
    return momentum * running_mean + (1 - momentum) * m, momentum * running_var + (1 - momentum) * v


# %% running_update · wrong · the biased variance kept
def running_update(running_mean, running_var, x, momentum):
    m = x.mean((0, 2, 3))
    v = ((x - m[:, None, None]) ** 2).mean((0, 2, 3))
    return (1 - momentum) * running_mean + momentum * m, (1 - momentum) * running_var + momentum * v


# %% running_update · wrong · writes into the old statistics, like the layer itself
def running_update(running_mean, running_var, x, momentum):
    running_mean.mul_(1 - momentum).add_(momentum * x.mean((0, 2, 3)))
    running_var.mul_(1 - momentum).add_(momentum * x.var((0, 2, 3)))
    return running_mean, running_var


# %% running_update · wrong · mean of the per-image variances
def running_update(running_mean, running_var, x, momentum):
    m = x.mean((0, 2, 3))
    v = x.flatten(2).var(dim=2).mean(0)
    return (1 - momentum) * running_mean + momentum * m, (1 - momentum) * running_var + momentum * v


# %% pool_statistics · right · loop over the workers
def pool_statistics(means, variances, worker_weights):
    total = int(worker_weights.sum())
    mean = torch.zeros_like(means[0])
    var = torch.zeros_like(variances[0])
    if total == 0:
        return mean, var
    for k in range(len(means)):
        mean = mean + means[k] * (float(worker_weights[k]) / total)
    for k in range(len(means)):
        var = var + (variances[k] + (means[k] - mean) ** 2) * (float(worker_weights[k]) / total)
    return mean, var


# %% pool_statistics · right · shares times matrix
def pool_statistics(means: Tensor, variances: Tensor, worker_weights: Tensor):
    shares = worker_weights.to(means.dtype) / worker_weights.sum().clamp(min=1).to(means.dtype)
    mean = torch.einsum("k,kc->c", shares, means)
    var = torch.einsum("k,kc->c", shares, variances + (means - mean).square())
    return mean, var


# %% pool_statistics · wrong · only the variance within the workers
def pool_statistics(means: Tensor, variances: Tensor, worker_weights: Tensor):
    a = (worker_weights / worker_weights.sum().clamp(min=1))[:, None]
    return (a * means).sum(0), (a * variances).sum(0)


# %% pool_statistics · wrong · every worker counts the same, the weights unused
def pool_statistics(means: Tensor, variances: Tensor, worker_weights: Tensor):
    mean = means.mean(0)
    var = (variances + (means - mean) ** 2).mean(0)
    if worker_weights.sum() == 0:
        return torch.zeros_like(mean), torch.zeros_like(var)
    return mean, var


# %% pool_statistics · wrong · all weights zero divides by zero and gives nan
def pool_statistics(means: Tensor, variances: Tensor, worker_weights: Tensor):
    a = (worker_weights / worker_weights.sum()).unsqueeze(1)
    mean = (a * means).sum(0)
    return mean, (a * (variances + (means - mean) ** 2)).sum(0)


# %% pool_statistics · wrong · mean of squares less square of the mean
def pool_statistics(means: Tensor, variances: Tensor, worker_weights: Tensor):
    a = (worker_weights / worker_weights.sum().clamp(min=1))[:, None]
    mean = (a * means).sum(0)
    return mean, (a * (variances + means**2)).sum(0) - mean**2


# %% pool_statistics · wrong · deviation from the plain mean of the means, and keepdim left on
def pool_statistics(means: Tensor, variances: Tensor, worker_weights: Tensor):
    a = (worker_weights / worker_weights.sum().clamp(min=1))[:, None]
    mean = (a * means).sum(0, keepdim=True)
    between = (means - means.mean(0, keepdim=True)) ** 2
    return mean, (a * (variances + between)).sum(0, keepdim=True)


# %% group_norm · right · loop over images and groups
def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    size = x.shape[1] // groups
    images = []
    for image in x:
        parts = []
        for part in image.split(size):
            d = part - part.mean()
            parts.append(d / (d.pow(2).mean() + eps).sqrt())
        images.append(torch.cat(parts))
    out = torch.stack(images)
    return out * weight[None, :, None, None] + bias[None, :, None, None]


# %% group_norm · wrong · every groups-th channel makes a group instead of neighbours
def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    n, c, h, w = x.shape
    y = x.reshape(n, c // groups, groups, h, w)
    m = y.mean((1, 3, 4), keepdim=True)
    v = y.var((1, 3, 4), keepdim=True, correction=0)
    y = ((y - m) / (v + eps).sqrt()).reshape(n, c, h, w)
    return y * weight[:, None, None] + bias[:, None, None]


# %% group_norm · wrong · groups taken for the number of channels in a group
def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    n, c, h, w = x.shape
    y = x.reshape(n, -1, groups, h, w)
    m = y.mean((2, 3, 4), keepdim=True)
    v = ((y - m) ** 2).mean((2, 3, 4), keepdim=True)
    y = ((y - m) / torch.sqrt(v + eps)).view(n, c, h, w)
    return y * weight[:, None, None] + bias[:, None, None]


# %% group_norm · wrong · the statistics run over the batch too
def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    n, c, h, w = x.shape
    y = x.reshape(n, groups, c // groups, h, w)
    v, m = torch.var_mean(y, dim=(0, 2, 3, 4), correction=0, keepdim=True)
    y = ((y - m) * torch.rsqrt(v + eps)).reshape(x.shape)
    return y * weight[:, None, None] + bias[:, None, None]


# %% group_norm · wrong · eps not handed to F.group_norm
def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    return F.group_norm(x, groups, weight, bias)
