"""The exercises of lesson 05: labels for anchors, samples of them, box deltas, the RPN's loss."""

import torch
from hypothesis import strategies as st
from matplotlib.axes import Axes
from torch import Tensor

from fbnet_lesson.course import drawing
from fbnet_lesson.course import strategies as some
from fbnet_lesson.course.exercise import Exercise, Mistake
from fbnet_lesson.detection.boxes import centre_form, decode_boxes, encode_boxes
from fbnet_lesson.detection.losses import rpn_losses
from fbnet_lesson.detection.matching import match
from fbnet_lesson.detection.rpn import flatten_predictions

# ------------------------------------------------------------------------------------ plain forms


def sample_by_keys(
    labels: Tensor, keys: Tensor, batch_size: int, positive_fraction: float
) -> tuple[Tensor, Tensor]:
    """Choose the anchors that the loss looks at, by a random key for each.

    At most ``batch_size * positive_fraction`` positives, rounded down: where there are more, those
    of the smallest keys. Then background, again by the smallest keys, until ``batch_size`` anchors
    are chosen or none is left. An ignored anchor is never chosen.

    Args: ``labels`` [A] of 1 positive, 0 background, -1 ignored; ``keys`` [A] random numbers, no
    two equal. Returns the indices of the chosen positives and those of the chosen background, both
    int64 and ascending.
    """
    order = keys.argsort()  # all anchors, shuffled
    shuffled = labels[order]
    positive = order[shuffled == 1][: int(batch_size * positive_fraction)]
    background = order[shuffled == 0][: batch_size - len(positive)]
    return positive.sort().values, background.sort().values


def _as_sample(function):
    """``sample_by_keys`` in the place of the package's ``sample``, which draws the keys itself."""

    def sample(labels, batch_size, positive_fraction, generator=None):
        generator = generator or torch.default_generator
        before = generator.get_state()
        keys = torch.rand(len(labels), generator=generator).to(labels.device)
        try:
            positive, background = function(labels, keys, batch_size, positive_fraction)
        except BaseException:  # the package's own, which then takes over, finds the same keys
            generator.set_state(before)
            raise
        return positive, background

    return sample


# ------------------------------------------------------------------------------------------ match


@st.composite
def match_cases(draw) -> dict:
    iou = draw(some.tensors(st.integers(0, 3), st.integers(0, 4), low=0, high=1, step=0.25))
    low, high = sorted(draw(st.tuples(*[some.numbers(0, 1, 0.25)] * 2)))
    return {"iou": iou, "low": low, "high": high, "allow_low_quality": draw(st.booleans())}


def _match_case(iou: list, low=0.25, high=0.75, allow_low_quality=True) -> dict:
    iou = torch.tensor(iou, dtype=torch.float32)
    return {"iou": iou, "low": low, "high": high, "allow_low_quality": allow_low_quality}


def _claims_only_the_first(iou, low, high, allow_low_quality=False):
    matched, labels = match(iou, low, high)
    if allow_low_quality and iou.numel():
        best, anchor = iou.max(1)
        labels[anchor[best > 0]] = 1
    return matched, labels


def _claims_before_the_thresholds(iou, low, high, allow_low_quality=False):
    matched, labels = match(iou, 0.0, 2.0, allow_low_quality)
    _, by_threshold = match(iou, low, high)
    return matched, torch.where(by_threshold == -1, labels, by_threshold)


def _takes_the_last_of_equal_rows(iou, low, high, allow_low_quality=False):
    matched, labels = match(iou.flip(0), low, high, allow_low_quality)
    return (len(iou) - 1 - matched if len(iou) else matched), labels


def _hands_claimed_anchors_over(iou, low, high, allow_low_quality=False):
    matched, labels = match(iou, low, high, allow_low_quality)
    if allow_low_quality and iou.numel():
        for gt, row in enumerate(iou):
            if row.max() > 0:
                matched[row == row.max()] = gt
    return matched, labels


def draw_match(case: dict, expected, got) -> None:
    iou = case["iou"]
    if iou.numel() == 0:
        return
    left, *others = drawing.panels(3, height=1.2 + 0.4 * len(iou))
    drawing.value_grid(left, iou, f"IoU; low {case['low']:g}, high {case['high']:g}")
    for ax, answer, title in zip(others, (expected, got), ("expected", "got"), strict=True):
        drawing.value_grid(ax, torch.stack(list(answer)), f"{title}: matched, labels")


MATCH = Exercise(
    solution=match,
    cases=match_cases(),
    edges={
        "over the high threshold object, under the low one background, between them ignored": [
            _match_case([[0.875, 0.5, 0.125]], allow_low_quality=False)
        ],
        "the best row of a column decides": [
            _match_case([[0.0, 0.5, 0.875], [0.875, 0.125, 0.5]], allow_low_quality=False)
        ],
        "exactly at high is an object, exactly at low is ignored": [
            _match_case([[1.0, 0.75, 0.25]], allow_low_quality=False)
        ],
        "a low-quality match is an object below both thresholds": [
            _match_case([[0.875, 0.0, 0.5], [0.0, 0.125, 0.0]])
        ],
        "all that are equally good are claimed": [_match_case([[0.5, 0.125, 0.5]])],
        "low-quality matches only where they are allowed": [
            _match_case([[0.5, 0.125]], allow_low_quality=False),
            {"iou": torch.tensor([[0.5, 0.125]]), "low": 0.25, "high": 0.75},
        ],
        "a ground truth that overlaps nothing claims nothing": [
            _match_case([[0.0, 0.0, 0.0], [0.875, 0.5, 0.125]])
        ],
        "a claimed anchor keeps the row of its highest IoU": [
            _match_case([[0.5, 0.0], [0.625, 0.875]])
        ],
        "of equal rows the first": [_match_case([[0.5], [0.5]], allow_low_quality=False)],
        "without ground truth all is background": [
            {"iou": torch.zeros(0, 3), "low": 0.25, "high": 0.75, "allow_low_quality": True}
        ],
        "without anchors nothing is labelled": [
            {"iou": torch.zeros(2, 0), "low": 0.25, "high": 0.75, "allow_low_quality": True}
        ],
        "low may be 0, and both may be equal": [
            _match_case([[0.5, 0.25, 0.0]], low=0.0, high=0.5, allow_low_quality=False),
            _match_case([[0.5, 0.25, 0.0]], low=0.5, high=0.5, allow_low_quality=False),
            _match_case([[0.5, 0.0]], low=0.0, high=0.0, allow_low_quality=False),
        ],
        "thresholds that cannot be": [
            _match_case([[0.5]], low=0.5, high=0.25),
            _match_case([[0.5]], low=-0.25, high=0.25),
        ],
    },
    mistakes=(
        Mistake(
            "does not count an anchor exactly at the high threshold as an object",
            "iou >= high is positive.",
            edits={"best >= high": "best > high"},
        ),
        Mistake(
            "takes an anchor exactly at the low threshold for background",
            "Only iou < low is background; at low the ignored band begins.",
            edits={"best < low": "best <= low"},
        ),
        Mistake(
            "has no ignored band",
            "What lies between the thresholds is neither: its label is -1.",
            edits={"torch.full_like(matched, -1)": "torch.zeros_like(matched)"},
        ),
        Mistake(
            "lets a ground truth that overlaps nothing claim every anchor of IoU 0",
            "The best IoU of such a row is 0, and all of the row equals 0: ask for more than 0.",
            edits={" & (best_of_gt > 0)": ""},
        ),
        Mistake(
            "claims only the first of equally good anchors",
            "argmax names one anchor; compare the row with its maximum to find all.",
            wrong=_claims_only_the_first,
        ),
        Mistake(
            "leaves a claimed anchor under the low threshold as background",
            "A low-quality match is made whatever the IoU is, as long as it is over 0: it has the "
            "last word, after the thresholds.",
            wrong=_claims_before_the_thresholds,
        ),
        Mistake(
            "makes no low-quality matches",
            "With allow_low_quality the best anchors of each row become positive.",
            edits={"if allow_low_quality and anchor_count": "if False"},
        ),
        Mistake(
            "makes low-quality matches without being asked",
            "allow_low_quality is False by default, and then only the thresholds decide.",
            edits={"if allow_low_quality and anchor_count": "if anchor_count"},
        ),
        Mistake(
            "hands a claimed anchor over to the ground truth that claims it",
            "A low-quality match changes the label; matched stays the row of the highest IoU.",
            wrong=_hands_claimed_anchors_over,
        ),
        Mistake(
            "looks for the best anchor of each ground truth instead of the reverse",
            "The labels are those of the anchors, which are the columns: reduce over the rows.",
            edits={"iou.max(0)": "iou.max(1)"},
        ),
        Mistake(
            "takes the last of several rows that are equally good",
            "Two objects overlap the anchor equally: matched is the first of them.",
            wrong=_takes_the_last_of_equal_rows,
        ),
        Mistake(
            "does not expect an image without ground truth",
            "With 0 rows there is no maximum: return zeros, all background, before taking it.",
            edits={"if gt_count == 0": "if False"},
        ),
    ),
    hint="One column an anchor. First its best row, then the thresholds, then the claims of rows.",
    difficulty=2,
    minutes=15,
    draw=draw_match,
)


# --------------------------------------------------------------------------------- sample_by_keys


@st.composite
def sample_cases(draw) -> dict:
    count = draw(st.integers(0, 8))
    keys = draw(st.permutations(range(count)))
    return {
        "labels": draw(some.labels(count, -1, 1)),
        "keys": torch.tensor(keys, dtype=torch.float32) / 8,
        "batch_size": draw(st.integers(0, 6)),
        "positive_fraction": draw(some.numbers(0, 1, 0.25)),
    }


def _sample_case(labels: list[int], keys: list[int], batch_size=4, positive_fraction=0.5) -> dict:
    return {
        "labels": torch.tensor(labels, dtype=torch.int64),
        "keys": torch.tensor(keys, dtype=torch.float32) / 8,
        "batch_size": batch_size,
        "positive_fraction": positive_fraction,
    }


def _lets_positives_fill_up(labels, keys, batch_size, positive_fraction):
    _, background = sample_by_keys(labels, keys, batch_size, positive_fraction)
    count = max(int(batch_size * positive_fraction), batch_size - len(background))
    return sample_by_keys(labels, keys, count, 1.0)[0], background


def _counts_positions_of_the_subset(labels, keys, batch_size, positive_fraction):
    def smallest(among, count):
        return keys[among].argsort()[:count].sort().values

    positive = smallest(labels == 1, int(batch_size * positive_fraction))
    return positive, smallest(labels == 0, batch_size - len(positive))


def draw_sample(case: dict, expected, got) -> None:
    labels, keys = case["labels"], case["keys"]
    if len(labels) == 0:
        return
    rows = {"labels": labels, "keys": keys}
    for title, answer in (("expected: chosen are 1", expected), ("got", got)):
        rows[title] = torch.zeros(len(labels))
        rows[title][torch.cat(list(answer))] = 1
    axes = drawing.panels(4, height=0.9, columns=2)
    for ax, (title, values) in zip(axes, rows.items(), strict=True):
        drawing.value_grid(ax, values, title)


SAMPLE = Exercise(
    solution=sample_by_keys,
    cases=sample_cases(),
    edges={
        "the smallest keys are chosen": [
            _sample_case([1, 1, 1, 0, 0, 0], [4, 0, 2, 5, 1, 3]),
        ],
        "ignored anchors are never chosen": [
            _sample_case([-1, 1, 0, -1, 0], [0, 3, 4, 1, 2]),
        ],
        "where positives are few, background fills up": [
            _sample_case([1, 0, 0, 0, 0], [4, 3, 2, 1, 0]),
        ],
        "where background is scarce, positives do not fill up": [
            _sample_case([1, 1, 1, 1, 0], [4, 3, 2, 1, 0]),
        ],
        "indices ascend, whatever the keys": [
            _sample_case([1, 1, 0, 0], [3, 2, 1, 0]),
        ],
        "a fraction of the sample is rounded down": [
            _sample_case([1, 1, 1, 0, 0, 0], [0, 1, 2, 3, 4, 5], batch_size=3),
        ],
        "no positives, or nothing but positives, may be asked for": [
            _sample_case([1, 0, 1, 0], [0, 1, 2, 3], batch_size=2, positive_fraction=0.0),
            _sample_case([1, 0, 1, 0], [0, 1, 2, 3], batch_size=2, positive_fraction=1.0),
        ],
        "nothing to choose from": [_sample_case([], [])],
    },
    mistakes=(
        Mistake(
            "fills up with positives",
            "The fraction is a limit: a sample with too little background stays smaller.",
            wrong=_lets_positives_fill_up,
        ),
        Mistake(
            "takes ignored anchors for background",
            "Background is label 0, not every label but 1.",
            edits={"shuffled == 0": "shuffled != 1"},
        ),
        Mistake(
            "does not fill up with background",
            "Background may take every place that the positives leave, not only its own share.",
            edits={
                "batch_size - len(positive)": "batch_size - int(batch_size * positive_fraction)"
            },
        ),
        Mistake(
            "chooses the first anchors, not those of the smallest keys",
            "Anchors lie row by row: the first ones are all from the top of the picture.",
            edits={"keys.argsort()": "torch.arange(len(keys))"},
        ),
        Mistake(
            "chooses the largest keys",
            "argsort ascends: the smallest come first.",
            edits={"keys.argsort()": "keys.argsort(descending=True)"},
        ),
        Mistake(
            "returns positions among the anchors of one label",
            "keys[labels == 1] counts anew from 0: map its positions back to indices of labels.",
            wrong=_counts_positions_of_the_subset,
        ),
        Mistake(
            "returns the indices in the order of the keys",
            "Both results ascend.",
            edits={
                "positive.sort().values, background.sort().values": "positive, background",
            },
        ),
        Mistake(
            "rounds the number of positives up",
            "At most the fraction: int() rounds down.",
            edits={
                "int(batch_size * positive_fraction)": "-int(-batch_size * positive_fraction // 1)"
            },
        ),
    ),
    hint="Sort once by key, then take the first few of each label.",
    difficulty=2,
    minutes=12,
    draw=draw_sample,
    plug=lambda function: {"detection.matching.sample": _as_sample(function)},
)


# ----------------------------------------------------------------------------------- encode_boxes

WEIGHTS = ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0), (1.0, 2.0, 4.0, 8.0))


@st.composite
def encode_cases(draw) -> dict:
    anchors = draw(some.boxes(max_count=3, empty=False))
    count = len(anchors)
    boxes = draw(some.boxes(count, count, empty=False))
    return {"boxes": boxes, "anchors": anchors, "weights": draw(st.sampled_from(WEIGHTS))}


def _encode_case(box: list[float], anchor: list[float], weights=WEIGHTS[0]) -> dict:
    pair = {"boxes": box, "anchors": anchor}
    tensors = {name: torch.tensor([row], dtype=torch.float32) for name, row in pair.items()}
    return {**tensors, "weights": weights}


def _with_a_good_pair_before(case: dict) -> dict:
    good = torch.tensor([[0.0, 0, 2, 2]])
    pairs = {name: torch.cat([good, case[name]]) for name in ("boxes", "anchors")}
    return {**pairs, "weights": case["weights"]}


def _orders_by_axis(boxes, anchors, weights):
    dx, dy, dw, dh = encode_boxes(boxes, anchors, (1.0,) * 4).unbind(-1)
    return torch.stack([dx, dw, dy, dh], -1) * boxes.new_tensor(weights)


def _counts_a_pixel_more(boxes, anchors, weights):
    encode_boxes(boxes, anchors, weights)  # raises as it should
    more = boxes.new_tensor([0, 0, 1, 1])
    return encode_boxes(boxes + more, anchors + more, weights)


def _refuses_points_only(boxes, anchors, weights):
    for rows in (boxes, anchors):
        if (rows[..., 2:] <= rows[..., :2]).all(-1).any():
            raise ValueError("no area")
    (centre, size), (anchor_centre, unit) = centre_form(boxes), centre_form(anchors)
    deltas = torch.cat([(centre - anchor_centre) / unit, (size / unit).log()], -1)
    return deltas * boxes.new_tensor(weights)


def _field(ax: Axes, boxes: Tensor) -> None:
    """Empty axes that hold ``boxes``, y downwards."""
    low, high = float(boxes.min()) - 1, float(boxes.max()) + 1
    ax.set_xlim(low, high)
    ax.set_ylim(high, low)
    ax.set_aspect("equal")


def draw_encode(case: dict, expected, got) -> None:
    if len(case["boxes"]) == 0:
        return
    anchor, box = case["anchors"][:1], case["boxes"][:1]
    decoded = decode_boxes(got[:1], anchor, case["weights"]).nan_to_num().clamp(-16, 24)
    (ax,) = drawing.panels(1, height=2.6)
    _field(ax, torch.cat([anchor, box, decoded]))
    ax.set_title("first pair", fontsize=9)
    for boxes, style, width, name in (
        (anchor, "--", 1.2, "anchor"),
        (box, "-", 1.6, "box"),
        (decoded, ":", 2.4, "anchor moved by your deltas"),
    ):
        drawing.draw_boxes(ax, boxes, style=style, width=width)
        ax.plot([], [], "k", linestyle=style, linewidth=width, label=name)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


ENCODE = Exercise(
    solution=encode_boxes,
    cases=encode_cases(),
    edges={
        "a box that is its anchor": [_encode_case([1, 2, 5, 4], [1, 2, 5, 4])],
        "the way from the anchor to the box, in units of the anchor": [
            _encode_case([2, 0, 6, 4], [0, 0, 4, 4])
        ],
        "the unit of x is the width, that of y the height": [
            _encode_case([2, 3, 6, 5], [0, 0, 4, 2])
        ],
        "offsets of the centres: none, where a smaller box has the same one": [
            _encode_case([2, 2, 4, 4], [0, 0, 6, 6])
        ],
        "the logarithm of the ratio of the sizes": [_encode_case([0, 0, 8, 2], [0, 0, 2, 4])],
        "each delta has its weight": [_encode_case([2, 2, 6, 6], [0, 0, 2, 2], WEIGHTS[2])],
        "a box or an anchor without area is refused": [
            _encode_case([1, 1, 1, 1], [0, 0, 2, 2]),
            _encode_case([1, 1, 1, 3], [0, 0, 2, 2]),
            _encode_case([0, 0, 2, 2], [1, 3, 3, 3]),
            _encode_case([4, 0, 2, 2], [0, 0, 2, 2]),
            _with_a_good_pair_before(_encode_case([1, 1, 3, 1], [0, 0, 2, 2])),
            _with_a_good_pair_before(_encode_case([0, 0, 2, 2], [3, 1, 3, 3])),
        ],
        "no pairs at all": [
            {"boxes": torch.zeros(0, 4), "anchors": torch.zeros(0, 4), "weights": WEIGHTS[0]}
        ],
    },
    mistakes=(
        Mistake(
            "leaves the offset in pixels",
            "A pixel is much for a small anchor and little for a large one: divide by its size.",
            edits={"(centre - anchor_centre) / anchor_size": "centre - anchor_centre"},
        ),
        Mistake(
            "divides the offset by the size of the box",
            "Decoding knows the anchor only: its width and height are the units.",
            edits={"(centre - anchor_centre) / anchor_size": "(centre - anchor_centre) / size"},
        ),
        Mistake(
            "measures both offsets by the anchor's width",
            "dy is the offset over the anchor's height.",
            edits={"anchor_centre) / anchor_size": "anchor_centre) / anchor_size[..., :1]"},
        ),
        Mistake(
            "leads from the box to the anchor",
            "All signs are turned: the box minus the anchor, the box over the anchor.",
            edits={
                "(centre - anchor_centre)": "(anchor_centre - centre)",
                "(size / anchor_size)": "(anchor_size / size)",
            },
        ),
        Mistake(
            "leaves out the logarithm of the sizes",
            "Twice the width and half the width have to be equally far from no change.",
            edits={"(size / anchor_size).log()": "(size / anchor_size)"},
        ),
        Mistake(
            "takes the logarithm to base 2",
            "Decoding uses exp, so the logarithm is the natural one.",
            edits={".log()": ".log2()"},
        ),
        Mistake(
            "measures from corner to corner",
            "x and y are those of the centres.",
            edits={"(centre - anchor_centre)": "(boxes[..., :2] - anchors[..., :2])"},
        ),
        Mistake(
            "mixes up its two arguments",
            "The first are the boxes, the second the anchors, which are the units.",
            wrong=lambda boxes, anchors, weights: encode_boxes(anchors, boxes, weights),
        ),
        Mistake(
            "divides by the weights",
            "Encoding multiplies by the weights, decoding divides.",
            edits={"-1) * boxes.new_tensor": "-1) / boxes.new_tensor"},
        ),
        Mistake(
            "forgets the weights",
            "The last step multiplies each of the four deltas by its weight.",
            edits={" * boxes.new_tensor(weights)": ""},
        ),
        Mistake(
            "counts a pixel more in width and height",
            "x2 is exclusive: the width is x2 - x1, without a + 1.",
            wrong=_counts_a_pixel_more,
        ),
        Mistake(
            "orders the deltas dx, dw, dy, dh",
            "First the two offsets, then the two sizes.",
            wrong=_orders_by_axis,
        ),
        Mistake(
            "lets boxes without area pass",
            "log(0) is minus infinity, and the loss infinite: raise a ValueError instead.",
            edits={"if bad.any()": "if False"},
        ),
        Mistake(
            "looks at the first pair only before it refuses",
            "One row without area is enough, wherever it stands: ask for any().",
            edits={"~nonempty(given)": "~nonempty(given[:1])"},
        ),
        Mistake(
            "refuses only what has neither width nor height",
            "A box of no width has no area either: one of the two is enough.",
            wrong=_refuses_points_only,
        ),
        Mistake(
            "refuses boxes without area, but not anchors",
            "An anchor without area is divided by: it has to be refused too.",
            edits={', ("anchors", anchors)': ","},
        ),
    ),
    hint="Offsets of the centres over the anchor's size, logarithms of the ratios, times weights.",
    difficulty=2,
    minutes=12,
    draw=draw_encode,
)


# ------------------------------------------------------------------------------------- rpn_losses


@st.composite
def loss_cases(draw) -> dict:
    count, positives = draw(st.integers(0, 4)), draw(st.integers(0, 2))
    return {
        "logits": draw(some.tensors(count, low=-4, high=4)),
        "labels": draw(some.labels(count, 0, 1)),
        "deltas": draw(some.tensors(positives, 4, low=-2, high=2, step=0.5)),
        "target_deltas": draw(some.tensors(positives, 4, low=-2, high=2, step=0.5)),
        "normalizer": draw(st.sampled_from([1, 4, 8])),
    }


def _loss_case(logits=(), labels=(), deltas=(), target_deltas=(), normalizer=8) -> dict:
    return {
        "logits": torch.tensor(logits, dtype=torch.float32),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "deltas": torch.tensor(deltas, dtype=torch.float32).reshape(-1, 4),
        "target_deltas": torch.tensor(target_deltas, dtype=torch.float32).reshape(-1, 4),
        "normalizer": normalizer,
    }


def _takes_the_logarithm_of_a_rounded_sigmoid(logits, labels, deltas, target_deltas, normalizer):
    p = logits.sigmoid()
    terms = labels * p.log() + (1 - labels) * (1 - p).log()
    found = rpn_losses(logits, labels, deltas, target_deltas, normalizer)
    return {**found, "loss_rpn_cls": -terms.sum() / normalizer}


def _sums_over_boxes_only(logits, labels, deltas, target_deltas, normalizer):
    found = rpn_losses(logits, labels, deltas, target_deltas, normalizer)
    return {**found, "loss_rpn_loc": found["loss_rpn_loc"] / 4}


def draw_losses(case: dict, expected, got) -> None:
    axes = drawing.panels(2, height=1.2)
    for ax, name in zip(axes, expected, strict=True):
        pair = torch.stack([expected[name], got[name].detach()])
        drawing.value_grid(ax, pair, f"{name}: expected, got")


RPN_LOSSES = Exercise(
    solution=rpn_losses,
    cases=loss_cases(),
    edges={
        "an undecided anchor costs log 2": [_loss_case([0.0], [1], normalizer=1)],
        "an object and a background": [_loss_case([2.0, 2.0], [1, 0], normalizer=1)],
        "both are sums, divided by the normalizer": [
            _loss_case([0.0, 0.0], [1, 0], [[1, 1, 1, 1]], [[0, 0, 0, 0]])
        ],
        "the distance of the deltas counts as it is, near or far": [
            _loss_case(deltas=[[0.5, 0, 0, 0]], target_deltas=[[0, 0, 0, 0]]),
            _loss_case(deltas=[[0, 0, 0, 0]], target_deltas=[[0, 3, 0, 0]]),
            _loss_case([0.0], [1], [[0.5, 1, 0, 0], [2, 0, 0, 0]], [[0] * 4, [0] * 4]),
        ],
        "very sure and right, very sure and wrong": [
            _loss_case([128.0, -128.0], [1, 0]),
            _loss_case([128.0], [0]),
        ],
        "no positives": [_loss_case([1.0, -1.0], [0, 0])],
        "nothing sampled": [_loss_case()],
    },
    mistakes=(
        Mistake(
            "takes means instead of sums",
            "A mean divides by what was sampled, the normalizer then divides a second time.",
            edits={
                'labels.to(logits), reduction="sum"': 'labels.to(logits), reduction="mean"',
                'target_deltas, reduction="sum"': 'target_deltas, reduction="mean"',
            },
        ),
        Mistake(
            "takes means and leaves the normalizer out",
            "Sums, over what was sampled; the normalizer that divides them is given.",
            edits={
                'labels.to(logits), reduction="sum"': 'labels.to(logits), reduction="mean"',
                'target_deltas, reduction="sum"': 'target_deltas, reduction="mean"',
                "objectness / normalizer": "objectness",
                "location / normalizer": "location",
            },
        ),
        Mistake(
            "divides the location by the number of positives",
            "Both losses have one divisor; else a single positive anchor outweighs all background.",
            edits={"location / normalizer": "location / max(len(deltas), 1)"},
        ),
        Mistake(
            "divides only the objectness",
            "Divide the location by the normalizer as well.",
            edits={"location / normalizer": "location"},
        ),
        Mistake(
            "averages over the four deltas",
            "Sum over the boxes and over their four deltas.",
            wrong=_sums_over_boxes_only,
        ),
        Mistake(
            "squares small distances (smooth L1)",
            "The plain absolute value is asked for: L1.",
            edits={"F.l1_loss": "F.smooth_l1_loss"},
        ),
        Mistake(
            "squares the distances",
            "L1 is the absolute value of the difference, not its square.",
            edits={"F.l1_loss": "F.mse_loss"},
        ),
        Mistake(
            "applies the sigmoid twice",
            "binary_cross_entropy_with_logits has the sigmoid inside: give it the logits.",
            edits={"with_logits(logits, ": "with_logits(logits.sigmoid(), "},
        ),
        Mistake(
            "goes through a sigmoid, which is rounded to 0 or 1",
            "In float32 the sigmoid of 128 is 1: how wrong it is, is lost. Use the function that "
            "takes logits.",
            edits={"_with_logits(logits, ": "(logits.sigmoid(), "},
        ),
        Mistake(
            "takes the logarithm of a sigmoid that is rounded to 0 or 1",
            "log(1 - 1) is minus infinity, and 0 times it is nan: use the function that takes "
            "logits.",
            wrong=_takes_the_logarithm_of_a_rounded_sigmoid,
        ),
        Mistake(
            "swaps the two losses",
            "loss_rpn_cls is the objectness, loss_rpn_loc the location.",
            edits={
                "objectness / normalizer": "location / normalizer",
                '"loss_rpn_loc": location': '"loss_rpn_loc": objectness',
            },
        ),
    ),
    hint="Two sums over what was sampled, both divided by the normalizer, in a dict.",
    difficulty=2,
    minutes=8,
    draw=draw_losses,
)


# ---------------------------------------------------------------------------- flatten_predictions


@st.composite
def head_cases(draw) -> dict:
    n, a, h, w = (draw(st.integers(1, most)) for most in (2, 2, 2, 3))
    return _head_case(n, a, h, w)


def _head_case(n: int, a: int, h: int, w: int) -> dict:
    """Every value is another, so that each shows where it came from."""
    return {
        "logits": torch.arange(1.0 * n * a * h * w).reshape(n, a, h, w),
        "deltas": torch.arange(4.0 * n * a * h * w).reshape(n, 4 * a, h, w),
    }


def _keeps_the_order_of_channels(logits, deltas):
    n, a, h, w = logits.shape
    deltas = deltas.reshape(n, a, 4, h, w).permute(0, 1, 3, 4, 2)
    return logits.flatten(1), deltas.reshape(n, a * h * w, 4)


def _reshapes_what_should_be_permuted(logits, deltas):
    return logits.flatten(1), deltas.reshape(len(deltas), -1, 4)


def draw_flatten(case: dict, expected, got) -> None:
    left, middle, right = drawing.panels(3, height=2.4)
    anchors, height, width = case["logits"].shape[1:]
    if torch.equal(expected[0], got[0]):  # then it is the deltas
        maps = case["deltas"][0].reshape(-1, width)  # (4A, H, W) -> (4A*H, W)
        title, rows = f"deltas: {4 * anchors} maps, {height} high", (expected[1][0], got[1][0])
    else:
        maps = case["logits"][0].reshape(-1, width)  # (A, H, W) -> (A*H, W)
        title = f"logits: {anchors} maps, {height} high"
        rows = expected[0][0][:, None], got[0][0][:, None]  # (H*W*A, 1)
    for ax, values, name in zip(
        (left, middle, right), (maps, *rows), (title, "expected", "got"), strict=True
    ):
        drawing.value_grid(ax, values, name)


FLATTEN = Exercise(
    solution=flatten_predictions,
    cases=head_cases(),
    edges={
        "one cell, two anchors": [_head_case(1, 2, 1, 1)],
        "one anchor, cells row by row": [_head_case(1, 1, 2, 2)],
        "cell by cell, the anchors of a cell side by side": [_head_case(1, 2, 1, 2)],
        "images stay apart": [_head_case(2, 2, 2, 1)],
    },
    mistakes=(
        Mistake(
            "lists anchor by anchor instead of cell by cell",
            "grid_anchors puts all anchors of the first cell first: move A behind H and W.",
            wrong=_keeps_the_order_of_channels,
        ),
        Mistake(
            "reshapes without moving an axis",
            "reshape never changes the order in memory; permute does.",
            wrong=_reshapes_what_should_be_permuted,
        ),
        Mistake(
            "goes through the cells column by column",
            "x is the fastest but for the anchors: rows first, then columns.",
            edits={
                "permute(0, 2, 3, 1)": "permute(0, 3, 2, 1)",
                "(0, 3, 4, 1, 2)": "(0, 4, 3, 1, 2)",
            },
        ),
        Mistake(
            "takes the channels of the deltas as four groups of A",
            "The channels are anchor by anchor dx, dy, dw, dh: A groups of four.",
            edits={
                "reshape(n, a, 4, h, w)": "reshape(n, 4, a, h, w)",
                "(0, 3, 4, 1, 2)": "(0, 3, 4, 2, 1)",
            },
        ),
        Mistake(
            "orders the deltas right and the logits wrong",
            "The logits need the same order: (N, H, W, A) before they are flattened.",
            edits={"logits.permute(0, 2, 3, 1)": "logits"},
        ),
        Mistake(
            "orders the logits right and the deltas wrong",
            "The deltas need the same order: (N, H, W, A, 4) before they are flattened.",
            edits={".permute(0, 3, 4, 1, 2)": ""},
        ),
    ),
    hint="Split the 4 A channels in two axes, order the axes N, H, W, A, 4, then flatten.",
    difficulty=3,
    minutes=10,
    draw=draw_flatten,
)

EXERCISES = (MATCH, SAMPLE, ENCODE, RPN_LOSSES, FLATTEN)
