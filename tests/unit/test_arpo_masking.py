"""Masked samples and the trainer's advantages, with arrays in place of tensors."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from osworld_env.arpo.masking import corrected_mean, mask_advantages


def batch(uids: str, rewards: list[float], trained_tokens: list[int]) -> Any:
    mask = np.array([[0] * (4 - tokens) + [1] * tokens for tokens in trained_tokens])
    scores = np.array(rewards)[:, None]
    tensors = {"response_mask": mask, "token_level_rewards": scores, "token_level_scores": scores}
    return SimpleNamespace(batch=tensors, non_tensor_batch={"uid": np.array(list(uids), dtype=object)})


def rewards_of(data: Any) -> list[float]:
    return [float(reward) for reward in data.batch["token_level_rewards"].sum(-1)]


def test_a_batch_without_a_fault_is_left_as_it_is() -> None:
    data = batch("aabb", [1, 0, 1, 1], [2, 3, 1, 1])
    mask_advantages(data)
    assert (rewards_of(data), list(data.non_tensor_batch["uid"])) == ([1, 0, 1, 1], list("aabb"))


def test_a_masked_sample_leaves_its_group() -> None:
    data = batch("aaab", [1, 0, 0.5, 1], [2, 2, 0, 2])
    mask_advantages(data)
    assert list(data.non_tensor_batch["uid"]) == ["a", "a", "a/masked/2", "b"]
    assert rewards_of(data) == [1, 0, 0, 1], "a group that always had one member keeps its reward"


def test_a_sample_that_is_left_alone_has_no_advantage_and_keeps_its_score() -> None:
    data = batch("aa", [1, 0], [2, 0])
    mask_advantages(data)
    assert rewards_of(data) == [0, 0]
    assert data.batch["token_level_scores"].sum(-1).tolist() == [1, 0], "what the trainer logs"


def test_a_batch_that_is_masked_as_a_whole_trains_on_nothing_and_can_be_measured() -> None:
    data = batch("aa", [0, 0], [0, 0])
    mask_advantages(data)
    assert (data.batch["response_mask"].sum(), rewards_of(data)) == (2, [0, 0])


@pytest.mark.parametrize(("masked", "expected"), [(0, 0.5), (2, 1.0)])
def test_the_mean_counts_only_what_was_played(masked: int, expected: float) -> None:
    assert corrected_mean(0.5, 4, masked) == expected


def test_the_mean_of_nothing_is_no_number() -> None:
    assert math.isnan(corrected_mean(0.0, 2, 2))
