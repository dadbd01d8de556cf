"""How the peers' calls are timed: as `longhaul bench` times its own (apps/bench_gpu.h).

full: calls back to back for about 150 ms a turn, the second half counted; rested: single calls,
each waited for, after 0.3 s of rest. Times are the device's, without the host's to enqueue.
"""
import time

import torch

TURNS = 3
HEAD_START_CYCLES = 120_000  # some 60 microseconds in which the host gets ahead


def single(call):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(HEAD_START_CYCLES)
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


def full_turn(call, estimate):
    group = max(1, -(-250 // max(1, int(1000 * estimate))))
    most = 200 // group if estimate < 0.12 else 1000  # what the head start covers
    groups = max(3, min(most, int(150 / (estimate * group))))
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(groups + 1)]
    torch.cuda._sleep(min(HEAD_START_CYCLES * group * groups, 40_000_000))
    marks[0].record()
    for mark in marks[1:]:
        for _ in range(group):
            call()
        mark.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / group for a, b in zip(marks, marks[1:])][groups // 2:]


def median(values):
    values = sorted(values)
    return (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2


def milliseconds(call, pace, turns=TURNS):
    """Median of one call. pace: "full queue" or "rested"."""
    single(call)
    estimate = max(1e-3, min(single(call), single(call)))
    samples = []
    for _ in range(turns):
        if pace == "full queue":
            samples += full_turn(call, estimate)
        else:
            time.sleep(0.3)
            samples += [single(call) for _ in range(9 if estimate < 5 else 3)]
    return median(samples)


def matmul_tflops():
    x, y = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        x @ y
    return 2 * 8192**3 / median([single(lambda: x @ y) for _ in range(9)]) / 1e9
