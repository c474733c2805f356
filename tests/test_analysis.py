"""Numbers and records of what is kept, worked out by hand."""

import math

import numpy as np
import pytest
import torch
from expirespan.analysis.numbers import mean_interval, retention_score, share_interval
from expirespan.analysis.pictures.filmstrip import save_episode_gif
from expirespan.analysis.pictures.timeline import save_timeline
from expirespan.analysis.record import EpisodeRecorder, EpisodeTrace
from expirespan.memory import LayerTrace


def test_retention_score_is_the_area_under_the_roc_curve() -> None:
    relevant = np.array([True, False, True, False, False])
    assert retention_score(np.array([9.0, 1, 8, 2, 3]), relevant) == 1
    assert retention_score(np.array([1.0, 9, 2, 8, 7]), relevant) == 0
    assert retention_score(np.ones(5), relevant) == 0.5
    # pairs won: 9 beats all three, 2 beats 1 and ties with 2
    assert retention_score(np.array([9.0, 1, 2, 2, 3]), relevant) == pytest.approx((3 + 1.5) / 6)
    assert math.isnan(retention_score(np.ones(5), np.zeros(5, dtype=bool)))
    with pytest.raises(ValueError, match=r"`span` and `relevant` to have one shape, actual: \(5,\) and \(3,\)"):
        retention_score(np.ones(5), np.ones(3))


def test_intervals() -> None:
    assert share_interval(98, 100) == pytest.approx((0.98, 0.93, 0.9945), abs=2e-3)
    assert share_interval(3, 3)[2] == 1
    mean, low, high = mean_interval(np.array([0.0, 1, 0, 1]))
    assert (mean, high - mean) == pytest.approx((0.5, 1.96 * math.sqrt(1 / 3 / 4))) and low < mean
    assert mean_interval(np.array([2.0])) == (2, 2, 2)


def recorded() -> EpisodeTrace:
    """Five steps of one layer: step 0 lives for 9, the others for 2; step 2 is evicted after step 2."""
    recorder = EpisodeRecorder()
    for step, (lifetime, live, evicted) in enumerate([(9, 1, -1), (2, 2, -1), (2, 3, 2), (2, 2, -1), (2, 3, -1)]):
        layer = LayerTrace(
            span=torch.tensor([[lifetime - 0.5]]),
            lifetime=torch.tensor([[lifetime]]),
            live=torch.tensor([[live]]),
            evicted=torch.tensor([[evicted]]),
        )
        recorder.add([layer], relevant=step == 0, action=1, reward=0.0)
    return recorder.finish()


def test_record_tells_when_and_why_memories_went() -> None:
    trace = recorded()
    layer = trace.layers[0]
    assert layer.deleted.tolist() == [5, 3, 3, 5, 5]
    assert layer.evicted.tolist() == [False, False, True, False, False]
    assert trace.remembered(2).tolist() == [0, 1, 2]
    assert trace.remembered(3).tolist() == [0, 3]
    with pytest.raises(ValueError, match="at least 1 step, actual: 0"):
        EpisodeRecorder().finish()


def test_pictures_are_written(tmp_path) -> None:
    trace = recorded()
    save_timeline(trace, tmp_path / "timeline.png", "a title")
    assert (tmp_path / "timeline.png").read_bytes()[:4] == b"\x89PNG"
    picture = np.zeros((8, 24, 3), dtype=np.uint8)
    for view in (picture, picture[:, :, :1]):
        save_episode_gif(trace, [view] * 5, [view] * 5, tmp_path / "episode.gif")
        assert (tmp_path / "episode.gif").read_bytes()[:3] == b"GIF"
    with pytest.raises(ValueError, match="5 `scenes` and `views`, actual: 4 and 5"):
        save_episode_gif(trace, [picture] * 4, [picture] * 5, tmp_path / "episode.gif")
