"""A stream of a million tokens, read by `sequences.training.evaluate`: does a token go on costing what it did?

Expire-Span with as many live memories as asked for, spread over a context (`held_memory.py`), one row, one thread.
Once the memory is full, processor time a token and the memory of the process are told for each tenth of the tokens.

    python benchmarks/long_stream.py
"""

import argparse
import time

import torch
from core_cost import STEPS, resident
from expirespan.sequences import Window
from expirespan.sequences.model import SequenceModel
from expirespan.sequences.training import evaluate
from held_memory import VOCABULARY, Marked, shape, size, tell_apart

TENTHS = 10


class Watched(Marked):
    """A stream that notes at every window what time it is, and at the end of every tenth how large the process is."""

    def __init__(self, marks: int, context: int, windows: int) -> None:
        super().__init__(1, marks, context)
        self.filling, self.windows = -(-context // STEPS), windows
        self.spent: list[float] = []
        self.sizes: list[float] = []

    def read(self, steps: int) -> Window:
        """The next steps."""
        done = self.time // STEPS - self.filling
        if done >= 0:
            self.spent.append(time.process_time())
            if done % (self.windows // TENTHS) == 0:
                self.sizes.append(resident("VmRSS"))
        return super().read(steps)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--live", type=int, default=500)
    parser.add_argument("--context", type=int, default=16_384)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    of = size("expire-span", options.width, options.live, options.context)
    windows = options.tokens // (STEPS * TENTHS) * TENTHS
    stream = Watched(of.marks, of.context, windows)
    model = SequenceModel(shape(of, options.layers), VOCABULARY, VOCABULARY)
    tell_apart(model)
    found = evaluate(model, stream, STEPS, stream.filling + windows + 1)  # one more, at whose beginning the last ends
    print("live memories of each layer:", *(f"{live:.1f}" for live in found.live))
    print("tenth  microseconds a token  MB of the process")
    for tenth in range(TENTHS):
        first, last = (number * windows // TENTHS for number in (tenth, tenth + 1))
        spent = (stream.spent[last] - stream.spent[first]) / ((last - first) * STEPS)
        print(f"{tenth + 1:5}  {1e6 * spent:20.2f}  {stream.sizes[tenth + 1]:17.1f}")


if __name__ == "__main__":
    main()
