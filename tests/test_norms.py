"""The norm layers: one process against torch, several gloo processes against the pooled batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.functional import batch_norm
from torch.nn.parallel import DistributedDataParallel

from fbnet_lesson.norms import NORMS, FrozenBN, group_count, make_norm, pool_statistics

GOLDEN = Path(__file__).parent / "data" / "norm_naive_sync_bn.npz"
BN_FAMILY = [name for name in NORMS if name != "GN"]
BN_KEYS = list(nn.BatchNorm2d(1).state_dict())
CHANNELS = 3

# (N, H, W) of each worker
SHAPES = {
    "equal": [(2, 4, 5), (2, 4, 5)],
    "unequal batches": [(1, 4, 5), (3, 4, 5)],
    "unequal sizes": [(2, 4, 5), (3, 7, 2)],
    "empty on one": [(2, 4, 5), (0, 4, 5)],
    "empty on all": [(0, 4, 5), (0, 4, 5)],
    "far from zero": [(1, 4, 5), (3, 4, 5)],
    "three workers, one empty": [(1, 2, 3), (0, 2, 3), (4, 3, 2)],
}
FOR_TWO = [case for case, shapes in SHAPES.items() if len(shapes) == 2]


# ------------------------------------------------------------------------- what each worker runs


def make_input(case: str, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Input and gradient of the output ``[N, C, H, W]``, float64, of one worker."""
    n, height, width = SHAPES[case][rank]
    generator = torch.Generator().manual_seed(100 * list(SHAPES).index(case) + rank)
    x, grad = torch.randn(2, n, CHANNELS, height, width, generator=generator, dtype=torch.float64)
    x = (1 + rank) * x + rank
    return (x + 4096 if case == "far from zero" else x), grad


def make_layer(name: str, dtype=torch.float64) -> nn.Module:
    norm = make_norm(name, CHANNELS).to(dtype)
    state = {
        "weight": torch.tensor([0.5, 1.0, -2.0]),
        "bias": torch.tensor([0.0, 1.0, 3.0]),
        "running_mean": torch.tensor([0.1, -0.2, 0.3]),
        "running_var": torch.tensor([1.0, 2.0, 0.5]),
    }
    norm.load_state_dict(state)
    return norm


def training_step(norm: nn.Module, x: torch.Tensor, grad_out: torch.Tensor) -> dict:
    """One forward and backward pass in training mode, then one in eval mode."""
    x = x.clone().requires_grad_()
    out = norm.train()(x)
    out.backward(grad_out)
    return {
        "out": out.detach(),
        "grad_in": x.grad,
        "grad_weight": norm.weight.grad,
        "grad_bias": norm.bias.grad,
        "running_mean": norm.running_mean.clone(),
        "running_var": norm.running_var.clone(),
        "num_batches_tracked": norm.num_batches_tracked.clone(),
        "eval_out": norm.eval()(x).detach(),
    }


def error_of(function, *args) -> str:
    try:
        function(*args)
    except ValueError as error:
        return str(error)
    return "no error"


def small_network(norm: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), make_norm(norm, 4), nn.ReLU(), nn.Conv2d(4, 4, 3), make_norm(norm, 4)
    )


def three_steps(model: nn.Module, batch: torch.Tensor) -> dict:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        optimiser.zero_grad()
        (model(batch + step) ** 3).mean().backward()
        optimiser.step()
    return model.state_dict()


def four_images() -> torch.Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def golden_step(name: str, case: str, rank: int) -> dict:
    numbers = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN).items()}
    norm = make_norm(name, 6)
    norm.load_state_dict({key: numbers[key] for key in BN_KEYS[:4]})
    return training_step(
        norm, numbers[f"input.{case}.rank{rank}"], numbers[f"grad_out.{case}.rank{rank}"]
    )


def two_workers(rank: int) -> dict:
    results = {}
    for case in FOR_TWO:
        results[case] = training_step(make_layer("SyncBN"), *make_input(case, rank))
        single = [tensor.float() for tensor in make_input(case, rank)]
        results[case, "float32"] = training_step(make_layer("SyncBN", torch.float32), *single)
    for name in ("naiveSyncBN", "naiveSyncBN_N"):
        for case in ("same_hw", "diff_hw", "zero_batch_rank1"):
            if (name, case) != ("naiveSyncBN", "zero_batch_rank1"):
                results[name, case] = golden_step(name, case, rank)
    results["naive, far from zero"] = training_step(
        make_layer("naiveSyncBN_N"), *make_input("far from zero", rank)
    )
    results["naive, empty on all"] = training_step(
        make_layer("naiveSyncBN_N"), *make_input("empty on all", rank)
    )
    results["bfloat16"] = {
        name: make_norm(name, CHANNELS)(make_input("equal", rank)[0].bfloat16())
        for name in ("SyncBN", "naiveSyncBN", "naiveSyncBN_N")
    }
    results["errors"] = {
        "empty": error_of(make_layer("naiveSyncBN"), make_input("empty on one", rank)[0]),
        "one value": error_of(make_layer("SyncBN"), torch.ones(1 - rank, CHANNELS, 1, 1).double()),
        "channels": error_of(make_layer("SyncBN"), torch.ones(2, 1, 4, 4).double()),
    }
    model = DistributedDataParallel(small_network("SyncBN"))
    results["ddp"] = three_steps(model, four_images()[2 * rank : 2 * rank + 2])
    return results


def three_workers(rank: int) -> dict:
    case = "three workers, one empty"
    return {case: training_step(make_layer("SyncBN"), *make_input(case, rank))}


def worker(rank: int, folder: str) -> None:
    """Process ``rank`` of three; the third leaves before the part for two."""
    torch.set_num_threads(1)
    for job, size in ((three_workers, 3), (two_workers, 2)):
        if rank < size:
            store = f"file://{folder}/{job.__name__}"
            dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
            torch.save(job(rank), f"{folder}/{job.__name__}_{rank}.pt")
            dist.destroy_process_group()


@pytest.fixture(scope="module")
def workers(tmp_path_factory) -> list[list[dict]]:
    """Results of all cases by rank: ``[two workers' dicts, three workers' dicts]``."""
    folder = tmp_path_factory.mktemp("workers")
    mp.spawn(worker, (str(folder),), nprocs=3)
    return [
        [torch.load(folder / f"{job}_{rank}.pt") for rank in range(size)]
        for job, size in (("two_workers", 2), ("three_workers", 3))
    ]


def by_rank(workers, case) -> list[dict]:
    return [results[case] for results in next(w for w in workers if case in w[0])]


# ------------------------------------------------------------------------------- several workers


def flat(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.transpose(0, 1).flatten(1)  # (N, C, H, W) -> (C, N*H*W)


def plain_bn_on_the_pooled_batch(case: str, workers: int) -> dict:
    """Plain BN in float64 on all workers' values in one row: ``[1, C, 1, values]``."""
    per_worker = zip(*[make_input(case, rank) for rank in range(workers)], strict=True)
    x, grad = (torch.cat([flat(t) for t in ts], 1)[None, :, None] for ts in per_worker)
    return training_step(make_layer("BN"), x, grad)


@pytest.mark.parametrize("case", SHAPES)
def test_sync_bn_equals_plain_bn_on_the_pooled_batch(workers, case):
    ranks = by_rank(workers, case)
    expected = plain_bn_on_the_pooled_batch(case, len(ranks))
    tolerance = {"rtol": 1e-10, "atol": 1e-8 if case == "far from zero" else 1e-10}
    for key in ("out", "grad_in", "eval_out"):
        got = torch.cat([flat(result[key]) for result in ranks], 1)
        torch.testing.assert_close(got, expected[key][0, :, 0], **tolerance)
    for key in ("grad_weight", "grad_bias"):
        torch.testing.assert_close(sum(r[key] for r in ranks), expected[key], **tolerance)
    for key in ("running_mean", "running_var", "num_batches_tracked"):
        for result in ranks:
            torch.testing.assert_close(result[key], expected[key], **tolerance)


@pytest.mark.parametrize("case", FOR_TWO)
def test_sync_bn_in_float32_keeps_to_float64(workers, case):
    # 4096 + noise: the input itself is rounded by 2e-4, and E[x²] − E[x]² would be off by 1
    tolerance = 2e-3 if case == "far from zero" else 2e-6
    single, double = by_rank(workers, (case, "float32")), by_rank(workers, case)
    for got, expected in zip(single, double, strict=True):
        assert got["out"].dtype == torch.float32
        for key in ("out", "grad_in", "running_var"):
            torch.testing.assert_close(
                got[key].double(), expected[key], rtol=tolerance, atol=tolerance
            )


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    "name, case",
    [
        ("naiveSyncBN", "same_hw"),
        ("naiveSyncBN", "diff_hw"),
        ("naiveSyncBN_N", "same_hw"),
        ("naiveSyncBN_N", "diff_hw"),
        ("naiveSyncBN_N", "zero_batch_rank1"),
    ],
)
def test_naive_sync_bn_gives_the_recorded_numbers_of_the_original(workers, name, case, rank):
    mode = {"naiveSyncBN": "mode_empty", "naiveSyncBN_N": "mode_N"}[name]
    golden = np.load(GOLDEN)
    for key, got in by_rank(workers, (name, case))[rank].items():
        expected = torch.from_numpy(golden[f"{mode}.{case}.rank{rank}.{key}"])
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6, msg=lambda m, k=key: k + m)


def test_the_two_naive_modes_differ_when_the_batches_differ(workers):
    plain, weighted = (
        by_rank(workers, (name, "same_hw"))[0] for name in ("naiveSyncBN", "naiveSyncBN_N")
    )
    assert (plain["running_mean"] - weighted["running_mean"]).abs().max() > 1e-3


def test_naive_sync_bn_does_not_lose_the_variance_far_from_zero(workers):
    # one size on both workers: weighting by images is weighting by values, the pooled batch
    ranks = by_rank(workers, "naive, far from zero")
    expected = plain_bn_on_the_pooled_batch("far from zero", 2)
    got = torch.cat([flat(result["out"]) for result in ranks], 1)
    torch.testing.assert_close(got, expected["out"][0, :, 0], rtol=1e-8, atol=1e-8)


def test_naive_sync_bn_n_changes_nothing_when_every_batch_is_empty(workers):
    untouched = make_layer("BN").state_dict()
    for result in by_rank(workers, "naive, empty on all"):
        torch.testing.assert_close(result["running_mean"], untouched["running_mean"])
        torch.testing.assert_close(result["running_var"], untouched["running_var"])
        assert result["grad_weight"].eq(0).all()


def test_statistics_of_a_bfloat16_batch_are_taken_in_float32(workers):
    x = torch.cat([make_input("equal", rank)[0].bfloat16() for rank in (0, 1)])
    expected = batch_norm(x.float(), None, None, training=True)
    for name in ("SyncBN", "naiveSyncBN", "naiveSyncBN_N"):
        got = torch.cat([outputs[name] for outputs in by_rank(workers, "bfloat16")])
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got, expected.bfloat16(), rtol=0.008, atol=1e-6)  # one step


def test_every_worker_is_told_what_it_may_not_do(workers):
    for errors in by_rank(workers, "errors"):
        assert "empty batch on rank 1" in errors["empty"]
        assert "naiveSyncBN_N" in errors["empty"]
        assert "one value per channel" in errors["one value"]
        assert errors["channels"] == "SyncBN expected [N, 3, H, W], got [2, 1, 4, 4]"


def test_two_workers_under_ddp_train_like_one_with_the_doubled_batch(workers):
    expected = three_steps(small_network("BN"), four_images())
    for state in by_rank(workers, "ddp"):
        for key, value in expected.items():
            torch.testing.assert_close(state["module." + key], value, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------ one worker


@pytest.mark.parametrize("name", ["SyncBN", "naiveSyncBN", "naiveSyncBN_N"])
@pytest.mark.parametrize("case", ["equal", "empty on all"])
def test_with_one_worker_the_synchronised_norms_are_plain_bn(name, case):
    got = training_step(make_layer(name), *make_input(case, 0))
    expected = training_step(make_layer("BN"), *make_input(case, 0))
    for key in expected:
        torch.testing.assert_close(got[key], expected[key], rtol=0, atol=0)


def test_the_recorded_single_process_run_is_plain_bn():
    golden, got = np.load(GOLDEN), golden_step("naiveSyncBN", "same_hw", 0)
    for key in ("out", "grad_in", "running_mean", "running_var", "num_batches_tracked"):
        expected = torch.from_numpy(golden[f"world1.{key}"])
        torch.testing.assert_close(got[key], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BN_FAMILY)
def test_every_bn_has_the_state_of_plain_bn(name):
    norm = make_norm(name, 4)
    assert list(norm.state_dict()) == BN_KEYS
    norm.load_state_dict(nn.BatchNorm2d(4).state_dict())
    assert norm.eps == 1e-5


def test_frozen_bn_ignores_the_batch_and_has_nothing_to_train():
    frozen, plain = make_layer("FrozenBN").train(), make_layer("BN").eval()
    x = make_input("equal", 1)[0].requires_grad_()
    torch.testing.assert_close(frozen(x), plain(x), rtol=0, atol=0)
    frozen(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert not list(frozen.parameters())
    torch.testing.assert_close(frozen.running_mean, make_layer("BN").running_mean)


def test_frozen_bn_loads_without_the_batch_counter():
    state = {key: torch.full((2,), 2.0) for key in BN_KEYS[:4]}
    frozen = nn.Sequential(FrozenBN(2))
    frozen.load_state_dict({"0." + key: value for key, value in state.items()})
    assert frozen[0].running_var.tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    "channels, groups",
    [(32, 32), (64, 32), (352, 32), (72, 24), (40, 20), (112, 28), (16, 8), (8, 4), (7, 1), (1, 1)],
)
def test_gn_picks_groups_that_divide_the_channels(channels, groups):
    assert group_count(channels) == groups
    norm = make_norm("GN", channels)
    x = torch.randn(2, channels, 3, 3)
    torch.testing.assert_close(norm(x), nn.GroupNorm(groups, channels)(x))
    assert f"channels_per_group={channels // groups}" in repr(norm)


def test_a_group_is_one_channel_only_for_one_channel_or_the_papers_32_groups():
    for channels in range(1, 400):
        groups = group_count(channels)
        assert channels % groups == 0 and groups <= 32
        assert channels // groups > 1 or channels in (1, 32)


def test_pooled_statistics_are_those_of_all_values():
    values = [torch.tensor([1.0, 3.0]), torch.tensor([10.0, 20.0, 30.0])]
    means = torch.stack([v.mean()[None] for v in values])
    variances = torch.stack([v.var(correction=0)[None] for v in values])
    mean, var = pool_statistics(means, variances, torch.tensor([2.0, 3.0]))
    torch.testing.assert_close(mean, torch.cat(values).mean()[None])
    torch.testing.assert_close(var, torch.cat(values).var(correction=0)[None])


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="norm='LN' is not known; allowed are 'BN', 'GN',"):
        make_norm("LN", 4)
    with pytest.raises(ValueError, match="stats_mode='HW' is not known; allowed are '' and 'N'"):
        NORMS["naiveSyncBN"](4, stats_mode="HW")
    with pytest.raises(ValueError, match="channels=0"):
        make_norm("GN", 0)
