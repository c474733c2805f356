"""Pictures in other number types than their space's, and with their channels at the wrong end."""

import numpy as np
import pytest
import torch
from expirespan.agents.observations import check_kinds, prepare
from gymnasium import spaces


def test_bytes_are_divided_by_255_whatever_type_they_come_in() -> None:
    space = spaces.Box(0, 255, (3, 16, 16), np.uint8)
    for dtype in (torch.uint8, torch.int64, torch.float32):
        assert (prepare(torch.full((1, 3, 16, 16), 255, dtype=dtype), space, "picture") == 1).all()
    real = spaces.Box(0, 1, (3, 16, 16), np.float32)
    assert (prepare(torch.ones(1, 3, 16, 16), real, "picture") == 1).all()


def test_channels_of_real_numbers_must_come_first() -> None:
    with pytest.raises(ValueError, match=r"to have their channels first, actual: .*64, 48, 3"):
        check_kinds("picture", spaces.Box(0, 1, (64, 48, 3), np.float32))
    assert check_kinds("picture", spaces.Box(0, 1, (3, 64, 48), np.float32)) == "picture"
    assert check_kinds("picture", spaces.Box(0, 255, (64, 48, 3), np.uint8)) == "picture"  # these are turned
