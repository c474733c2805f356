"""What all tests share: one thread, so that numbers are the same everywhere, and the usual effect of signals."""

import signal

import torch

torch.set_num_threads(1)
for name, usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:  # as a shell's background jobs have it
        signal.signal(number, usual)
