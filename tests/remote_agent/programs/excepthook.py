import sys


def hook(kind, error, trace):
    frames = []
    while trace is not None:
        frames.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    print(kind, error, frames)


sys.excepthook = hook


def fail():
    raise LookupError("seen by the hook")


fail()
