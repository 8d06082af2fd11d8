"""Keeps masked samples out of the trainer's advantages. Works on torch's tensors and numpy's arrays alike. Pure."""

from collections import Counter
from typing import Any, Final

KEPT_TOKENS: Final = 2
"""How many tokens stay where a batch is masked as a whole, with a reward of 0: the trainer's metrics take maximum and
variance over trained tokens, and neither is defined for fewer."""


def mask_advantages(data: Any) -> None:
    """Take samples without a trained token out of their groups in the batch `data`, before advantages are computed.

    A group's mean and deviation are then those of the episodes that were really played. A sample left alone in its
    group has nothing to be compared with and gets a reward of 0, which is an advantage of 0.
    """
    mask, uids = data.batch["response_mask"], data.non_tensor_batch["uid"]
    is_masked = [int(tokens) == 0 for tokens in mask.sum(-1)]
    if not any(is_masked):
        return
    rewards = data.batch["token_level_rewards"] * 1  # a copy: the trainer's metrics show the scores as they were
    data.batch["token_level_rewards"] = rewards
    before = Counter(uids)
    for row in (row for row, gone in enumerate(is_masked) if gone):
        uids[row] = f"{uids[row]}/masked/{row}"
        rewards[row] = 0
    after = Counter(uids)
    for row, uid in enumerate(uids):
        if after[uid] == 1 < before[uid]:
            rewards[row] = 0
    if all(is_masked):
        mask[0, -KEPT_TOKENS:] = 1


def corrected_mean(mean: float, samples: int, masked: int) -> float:
    """Return the mean without masked samples from the `mean` in which each of them is 0; NaN where none is left."""
    return mean * samples / (samples - masked) if samples > masked else float("nan")
