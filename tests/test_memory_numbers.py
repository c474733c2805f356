"""Numbers of what is kept and attended to, worked out by hand on an episode of 7 steps."""

import math
from dataclasses import replace

import numpy as np
import pytest
from expirespan.analysis import numbers, usage
from expirespan.analysis.record import AttentionRecord, EpisodeTrace, LayerRecord

STEPS = 7


def attention(*triples: tuple[int, int, float]) -> AttentionRecord:
    query, memory, weight = zip(*triples, strict=True)
    return AttentionRecord(
        query=np.array(query, dtype=np.int32),
        memory=np.array(memory, dtype=np.int32),
        weight=np.array(weight, dtype=np.float32),
    )


def first_layer() -> LayerRecord:
    """Lifetimes 7, 1, 2, 2, 3, 2, 1; steps 0, 4, 5 and 6 live to the end."""
    return LayerRecord(
        span=np.array([11.0, 0.5, 1.5, 1.5, 9.0, 3.0, 2.0]),
        deleted=np.array([7, 2, 4, 5, 7, 7, 7]),
        evicted=np.zeros(STEPS, dtype=bool),
        live=np.array([1, 2, 2, 3, 3, 3, 4]),
        attention=attention(
            (0, 0, 1.0),
            (1, 0, 0.5),
            (2, 2, 0.75),
            (3, 2, 0.25),
            (3, 0, 0.25),
            (4, 3, 0.03125),
            (6, 0, 0.5),
            (6, 4, 0.25),
        ),
    )


def episode() -> EpisodeTrace:
    second = replace(first_layer(), span=np.array([1.0, 2, 3, 4, 5, 6, 7]), attention=None)
    return EpisodeTrace(
        layers=(first_layer(), second),
        relevant=np.array([True, False, False, False, True, False, False]),
        rewards=np.zeros(STEPS),
        actions=np.zeros(STEPS, dtype=np.int64),
        events=np.array(["ball", "", "", "door", "", "door", ""]),
    )


def test_lifetimes_and_live_memories() -> None:
    layer = first_layer()
    assert numbers.lifetimes(layer).tolist() == [7, 1, 2, 2, 3, 2, 1]
    assert numbers.live_memories(layer).tolist() == [1, 2, 2, 3, 3, 3, 4]


def test_survival_counts_what_the_episode_cut_short_for_the_ages_it_reached() -> None:
    # 7 reach lifetime 1 (one dies), 5 lifetime 2 (two die: a third is cut short there), nobody dies later
    expected = [1, 6 / 7, 6 / 7 * 3 / 5] + [6 / 7 * 3 / 5] * 5
    np.testing.assert_allclose(numbers.survival(first_layer()), expected)
    assert numbers.half_life(first_layer()) == math.inf
    shorter = replace(first_layer(), deleted=np.array([3, 2, 4, 5, 7, 7, 7]))
    # lifetimes 3, 1, 2, 2, 3, 2, 1: 6/7 * 3/5 = 0.51 after 2, half of that after 3
    assert numbers.half_life(shorter) == 3


def test_precision_and_recall_at_the_budget() -> None:
    span, relevant = np.array([5.0, 1, 4, 4, 2]), np.array([True, False, False, True, True])
    assert numbers.precision_and_recall(span, relevant, 1) == (1, 1 / 3)
    assert numbers.precision_and_recall(span, relevant, 2) == (1 / 2, 1 / 3)  # of two equal ones the earlier
    assert numbers.precision_and_recall(span, relevant) == (2 / 3, 2 / 3)
    assert numbers.precision_and_recall(span, relevant, 11) == (3 / 5, 1)
    assert all(math.isnan(number) for number in numbers.precision_and_recall(span, np.zeros(5, dtype=bool)))
    with pytest.raises(ValueError, match="`budget` to be at least 1, actual: 0"):
        numbers.precision_and_recall(span, relevant, 0)
    with pytest.raises(ValueError, match=r"`span` and `relevant` to have one shape, actual: \(5,\) and \(3,\)"):
        numbers.precision_and_recall(span, relevant[:3])


def test_rank_correlation() -> None:
    assert numbers.rank_correlation(np.array([1.0, 2, 3]), np.array([10.0, 100, 1000])) == pytest.approx(1)
    assert numbers.rank_correlation(np.array([1.0, 2, 3]), np.array([3.0, 2, 2.5])) == pytest.approx(-0.5)
    # ranks 1.5, 1.5, 3 and 1, 2, 3: 1.5 / sqrt(1.5 * 2)
    assert numbers.rank_correlation(np.array([1.0, 1, 2]), np.array([1.0, 2, 3])) == pytest.approx(1.5 / math.sqrt(3))
    assert math.isnan(numbers.rank_correlation(np.ones(3), np.array([1.0, 2, 3])))


def test_layers_are_compared_by_event() -> None:
    trace = episode()
    labels = numbers.event_labels(trace)
    assert labels.tolist() == ["ball", "other", "other", "door", "relevant", "door", "other"]
    assert numbers.event_labels(replace(trace, events=None)).tolist()[3:5] == ["other", "relevant"]
    means = numbers.by_event(numbers.spans(trace), labels)
    assert {name: values.tolist() for name, values in means.items()} == {
        "ball": [11, 1],
        "door": [2.25, 5],
        "other": [pytest.approx(4 / 3), 4],
        "relevant": [9, 5],
    }
    agreement = numbers.layer_agreement(trace)
    # ranks 7, 1, 2.5, 2.5, 6, 5, 4 against 1 to 7, about their mean 4: products 9 - 1 = -9 + 6 + 1.5 + 0 + 2 + 2 + 0
    assert agreement[0, 1] == pytest.approx(2.5 / math.sqrt(27.5 * 28)) and agreement[1, 1] == pytest.approx(1)
    with pytest.raises(ValueError, match=r"`values` to be \[layers, 7\], actual: \[2, 5\]"):
        numbers.by_event(np.ones((2, 5)), labels)


def test_attention_received_leaves_a_step_to_itself_out() -> None:
    layer = first_layer()
    assert usage.attention_received(layer).tolist() == [1.25, 0, 0.25, 0.03125, 0.25, 0, 0]
    assert usage.peak_attention(layer).tolist() == [0.5, 0, 0.25, 0.03125, 0.25, 0, 0]
    assert usage.attention_beyond(layer, 1).tolist() == [0, 0, 0, 0.25, 0, 0, 0.75]
    assert usage.attention_beyond(layer, 2).tolist() == [0, 0, 0, 0.25, 0, 0, 0.5]
    with pytest.raises(ValueError, match="`layer` to be recorded with attention"):
        usage.attention_received(episode().layers[1])
    with pytest.raises(ValueError, match="`age` to be at least 0, actual: -1"):
        usage.attention_beyond(layer, -1)


def test_kept_for_nothing_and_deleted_while_in_use() -> None:
    layer = first_layer()
    # step 1 lives for its own step only, so nothing was wasted on it; step 5 was kept and never looked at
    assert np.flatnonzero(usage.never_attended(layer)).tolist() == [5]
    assert np.flatnonzero(usage.never_attended(layer, 0.1)).tolist() == [3, 5]
    # steps 2 and 3 expired with their last readers at steps 3 and 4; step 4 lived to the end
    assert np.flatnonzero(usage.attended_at_deletion(layer)).tolist() == [2, 3]
    assert np.flatnonzero(usage.attended_at_deletion(layer, 0.1)).tolist() == [2]
    evicted = replace(layer, evicted=np.arange(STEPS) == 2)
    assert np.flatnonzero(usage.attended_at_deletion(evicted)).tolist() == [3]
    with pytest.raises(ValueError, match=r"`least` to be at least 0\.01, below which nothing is recorded, actual: 0"):
        usage.never_attended(layer, 0.0)
