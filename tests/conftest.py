"""What all tests share: one thread, so that numbers are the same everywhere."""

import torch

torch.set_num_threads(1)
