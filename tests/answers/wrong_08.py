"""Wrong answers to the exercises of lesson 08, as a learner would write them from the stub."""

# %% label_proposals · background 0, as in torchvision
def label_proposals(proposals, truth, labels, num_classes, iou_threshold):
    boxes = torch.cat([proposals, truth])
    if len(truth) == 0:
        zeros = torch.zeros(len(boxes), dtype=torch.int64)
        return boxes, zeros, zeros
    best, matched = box_iou(truth, boxes).max(0)
    classes = labels[matched]
    classes[best < iou_threshold] = 0
    return boxes, classes, matched


# %% label_proposals · only the proposals are labelled
def label_proposals(proposals, truth, labels, num_classes, iou_threshold):
    iou = box_iou(proposals, truth)
    if truth.shape[0] == 0:
        zeros = torch.zeros(len(proposals), dtype=torch.int64)
        return proposals, zeros + num_classes, zeros
    best, matched = iou.max(1)
    return proposals, torch.where(best < iou_threshold, num_classes, labels[matched]), matched


# %% label_proposals · over the threshold
def label_proposals(proposals, truth, labels, num_classes, iou_threshold):
    boxes = torch.vstack([proposals, truth])
    if truth.numel() == 0:
        return boxes, torch.full((len(boxes),), num_classes), torch.zeros(len(boxes)).long()
    best, matched = box_iou(boxes, truth).max(1)
    return boxes, labels[matched].masked_fill(~(best > iou_threshold), num_classes), matched


# %% label_proposals · forgets pictures without objects
def label_proposals(proposals, truth, labels, num_classes, iou_threshold):
    boxes = torch.cat([proposals, truth])
    best, matched = box_iou(truth, boxes).max(0)
    return boxes, torch.where(best >= iou_threshold, labels[matched], num_classes), matched


# %% box_head_losses · means
def box_head_losses(class_logits, deltas, labels, target_deltas):
    fg = labels < deltas.shape[1]
    own = deltas[fg, labels[fg]]
    return {
        "loss_cls": F.cross_entropy(class_logits, labels),
        "loss_box_reg": F.l1_loss(own, target_deltas[fg]),
    }


# %% box_head_losses · foreground is over 0
def box_head_losses(class_logits, deltas, labels, target_deltas):
    n = max(len(labels), 1)
    fg = torch.where((labels > 0) & (labels < deltas.shape[1]))[0]
    box = (deltas[fg, labels[fg]] - target_deltas[fg]).abs().sum()
    return {"loss_cls": F.cross_entropy(class_logits, labels, reduction="sum") / n,
            "loss_box_reg": box / n}


# %% box_head_losses · all boxes of an object compared
def box_head_losses(class_logits, deltas, labels, target_deltas):
    n = max(len(labels), 1)
    fg = labels < deltas.shape[1]
    box = (deltas[fg] - target_deltas[fg][:, None]).abs().sum()
    return {"loss_cls": F.cross_entropy(class_logits, labels, reduction="sum") / n,
            "loss_box_reg": box / n}


# %% detections_from · the best class of each proposal
def detections_from(class_logits, deltas, proposals, size, score_threshold, nms_threshold, most):
    scores, labels = F.softmax(class_logits, 1)[:, :-1].max(1)
    own = deltas[torch.arange(len(deltas)), labels]
    boxes = clip_boxes(decode_boxes(own, proposals, (10, 10, 5, 5)), size)
    over = scores > score_threshold
    boxes, scores, labels = boxes[over], scores[over], labels[over]
    keep = batched_nms(boxes, scores, labels, nms_threshold)[:most]
    return boxes[keep], scores[keep], labels[keep]


# %% detections_from · weights forgotten
def detections_from(class_logits, deltas, proposals, size, score_threshold, nms_threshold, most):
    shares = class_logits.softmax(1)[:, :-1]
    r, k = torch.where(shares > score_threshold)
    boxes = clip_boxes(decode_boxes(deltas[r, k], proposals[r], (1, 1, 1, 1)), size)
    keep = batched_nms(boxes, shares[r, k], k, nms_threshold, most)
    return boxes[keep], shares[r, k][keep], k[keep]


# %% detections_from · softmax without the background
def detections_from(class_logits, deltas, proposals, size, score_threshold, nms_threshold, most):
    shares = F.softmax(class_logits[..., :-1], -1)
    r, k = torch.where(shares > score_threshold)
    boxes = clip_boxes(decode_boxes(deltas[r, k], proposals[r], (10, 10, 5, 5)), size)
    keep = batched_nms(boxes, shares[r, k], k, nms_threshold, most)
    return boxes[keep], shares[r, k][keep], k[keep]


# %% detections_from · NMS over all classes
def detections_from(class_logits, deltas, proposals, size, score_threshold, nms_threshold, most):
    shares = class_logits.softmax(1)[:, :-1]
    r, k = torch.where(shares > score_threshold)
    boxes = clip_boxes(decode_boxes(deltas[r, k], proposals[r], (10, 10, 5, 5)), size)
    keep = batched_nms(boxes, shares[r, k], k * 0, nms_threshold, most)
    return boxes[keep], shares[r, k][keep], k[keep]


# %% assign_levels · the level itself
def assign_levels(boxes, first, last):
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return (4 + torch.log2((w * h).sqrt() / 224)).floor().clamp(first, last).long()


# %% assign_levels · round
def assign_levels(boxes, first, last):
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return (4 + torch.log2((w * h).sqrt() / 224)).round().clamp(first, last).long() - first


# %% assign_levels · no root
def assign_levels(boxes, first, last):
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return (4 + torch.log2(w * h / 224)).floor().clamp(first, last).long() - first
