"""What all tests share: one thread, the usual effect of signals, the environment's programs on the path.

With one thread numbers are the same everywhere.
"""

import os
import signal
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
for name, usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:  # as a shell's background jobs have it
        signal.signal(number, usual)
