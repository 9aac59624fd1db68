"""Which classes are sampled: a function of seed, step and class, and of one size on every device."""

from __future__ import annotations

import pytest
import torch

from recognition.heads.choosing import choose
from recognition.heads.rows import Rows
from recognition.heads.sampling import count_own, random_scores, sample_classes
from tests.helpers.heads import batch, make_head

CPU = torch.device("cpu")


@pytest.mark.parametrize("rate", [0.0, 0.008, 0.1, 0.5])
def test_the_device_samples_what_the_host_samples(rate: float) -> None:
    samples = []
    for mode in ("host", "device"):
        head = make_head(1000, mode=mode, sample_rate=rate)
        head(*batch(head, 40, 0))
        assert head.result is not None and head.result.sampled is not None
        samples.append(head.result.sampled)
    labels = batch(head, 40, 0)[1]
    assert torch.equal(*samples)
    assert len(samples[0]) == max(round(1000 * rate), len(labels.unique()))
    assert torch.isin(labels, samples[0]).all()


def test_labels_on_the_host_are_what_is_counted() -> None:
    head = make_head(1000, mode="device", sample_rate=0.1)
    head(*batch(head, 4, 0), labels_on_host=torch.arange(300))
    assert head.result is not None and head.result.sampled is not None
    assert len(head.result.sampled) == 300


def test_a_class_has_its_score_whatever_rank_owns_it() -> None:
    every = random_scores(range(100_000), seed=5, step=7, device=CPU)
    part = random_scores(range(40_123, 90_001), seed=5, step=7, device=CPU)
    assert torch.equal(every[40_123:90_001], part)
    assert len(every.unique()) == 100_000  # no tie that two devices could break differently
    # Pinned: a change of the draw is a change of every sampled run.
    assert every[:2].tolist() == PINNED


def test_scores_are_spread_evenly_and_anew_in_each_step() -> None:
    one, other = (random_scores(range(50_000), seed=5, step=step, device=CPU) for step in (1, 2))
    chosen = [set(scores.topk(5000).indices.tolist()) for scores in (one, other)]
    # 500 expected by chance, with a standard deviation of 20.
    assert abs(len(chosen[0] & chosen[1]) - 500) < 120
    assert abs(sum(chosen[0]) / 5000 - 25_000) < 1000  # standard deviation 200


def test_own_classes_are_taken_beyond_the_rate_and_no_others() -> None:
    labels = torch.tensor([-3, 2, 2, 9, 25])  # of classes 0 to 9 here: 2 and 9
    scores = random_scores(range(10), seed=0, step=0, device=CPU)
    num_own = count_own(labels, range(10))
    assert num_own == 2
    assert sample_classes(scores, labels, 0.0, num_own=num_own).tolist() == [2, 9]
    assert len(sample_classes(scores, labels, 0.5, num_own=num_own)) == 5


def test_corrected_sums_are_those_of_all_classes_on_the_average() -> None:
    head = make_head(300, sample_rate=0.2, sampling_correction="logq", scale=4.0, dtype=torch.float64)
    embeddings, labels = batch(head, 20)
    unit = torch.nn.functional.normalize(embeddings.detach())
    cosine_NC = unit @ torch.nn.functional.normalize(head.centers).T
    of_batch = torch.zeros(300, dtype=torch.bool).index_fill(0, labels, True)
    expected_N = (4.0 * cosine_NC).exp()[:, ~of_batch].sum(1)
    found = []
    for step in range(300):
        chosen = choose(
            head._loop,
            Rows.of(head.margin, unit, labels, first_class=0, weights=None),
            head.class_range,
            head.sampling,
            step=step,
            labels_on_host=None,
            on_host=True,
        )
        active = chosen[0]
        assert active.sample is not None and active.weight is not None
        assert (active.weight[of_batch[active.sample]] == 1).all()
        others = ~of_batch[active.sample]
        found.append((4.0 * cosine_NC[:, active.sample[others]]).exp() @ active.weight[others])
    # A draw strays by about a sixth, and the mean of 300 by a hundredth.
    assert (torch.stack(found).std(0) / expected_N).mean() < 0.2
    assert torch.allclose(torch.stack(found).mean(0), expected_N, rtol=0.04)


PINNED = [-1200459890340051914, 5931023618873247212]
