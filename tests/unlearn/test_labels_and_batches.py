"""Labels never equal the truth or a special id; batches are functions of seed and update alone."""

import numpy as np

from ray_unlearn.unlearn.data_order import batch
from ray_unlearn.unlearn.methods.labels import random_labels

ALLOWED = np.array([2, 3, 5, 6, 7], dtype=np.int32)  # 0, 1 and 4 are special


def test_random_labels_are_allowed_and_never_the_truth() -> None:
    true = np.array([2, 3, 5, 6, 7, 0, 4, 9] * 500, dtype=np.int32)
    labels = random_labels(true, ALLOWED, seed=1, sequence=2, epoch=3)
    assert set(labels) <= set(ALLOWED)
    assert not (labels == true).any()


def test_random_labels_are_uniform_over_the_other_tokens() -> None:
    labels = random_labels(np.full(40_000, 5, dtype=np.int32), ALLOWED, seed=0, sequence=0, epoch=0)
    counts = np.array([(labels == token).sum() for token in (2, 3, 6, 7)])
    # 4 cells, expectation 10,000, standard deviation 87: five of them
    assert np.abs(counts - 10_000).max() < 435
    special = random_labels(
        np.full(40_000, 4, dtype=np.int32), ALLOWED, seed=0, sequence=0, epoch=0
    )
    assert np.abs(np.array([(special == token).sum() for token in ALLOWED]) - 8_000).max() < 400


def test_random_labels_are_fresh_per_epoch_and_sequence_and_reproducible() -> None:
    true = np.full(64, 5, dtype=np.int32)
    first = random_labels(true, ALLOWED, seed=1, sequence=2, epoch=3)
    assert (first == random_labels(true, ALLOWED, seed=1, sequence=2, epoch=3)).all()
    for other in ({"seed": 2}, {"sequence": 3}, {"epoch": 4}):
        assert (
            first
            != random_labels(true, ALLOWED, **({"seed": 1, "sequence": 2, "epoch": 3} | other))
        ).any()


def test_batches_pass_over_the_whole_split_each_epoch() -> None:
    indices = [batch(0, "forget", update, 4, 10) for update in range(1, 6)]
    places = np.concatenate([i for i, _ in indices])
    epochs = np.concatenate([e for _, e in indices])
    assert sorted(places[:10]) == sorted(places[10:]) == list(range(10))
    assert list(epochs) == [0] * 10 + [1] * 10
    assert list(places[:10]) != list(places[10:])


def test_batches_differ_by_seed_and_split_only() -> None:
    same = [batch(7, "forget", 3, 8, 100)[0] for _ in range(2)]
    assert (same[0] == same[1]).all()
    assert (batch(8, "forget", 3, 8, 100)[0] != same[0]).any()
    assert (batch(7, "retain", 3, 8, 100)[0] != same[0]).any()
