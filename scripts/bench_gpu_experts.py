#!/usr/bin/env python3
"""PyTorch's grouped products beside gpu_experts_bench: Qwen3-30B-A3B's experts, bf16, random data.

usage: bench_gpu_experts.py [tokens ...]      (needs a CUDA build of PyTorch 2.11 or newer)
"""
import sys
import time

import torch

EXPERTS, HIDDEN, INTERMEDIATE, TOP_K = 128, 2048, 768, 8


def milliseconds(call, rested):
    def timed(calls):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / calls

    torch.cuda.synchronize()
    time.sleep(0.3)
    for _ in range(3):
        call()
    if rested:
        return sorted(timed(1) for _ in range(15))[7]
    calls = max(3, int(100 / timed(3)))
    timed(calls)
    return timed(calls)


def bench(tokens, rested):
    pairs = tokens * TOP_K
    ids = torch.randint(0, EXPERTS, (pairs,)).sort().values
    ends = torch.bincount(ids, minlength=EXPERTS).cumsum(0).to(torch.int32).cuda()
    make = lambda *shape: torch.randn(*shape, device="cuda", dtype=torch.bfloat16)
    x = make(pairs, HIDDEN)
    gate_up = make(EXPERTS, 2 * INTERMEDIATE, HIDDEN) * 0.02
    down = make(EXPERTS, HIDDEN, INTERMEDIATE) * 0.02
    # As checkpoints store them and, the peers' usual way, with the columns contiguous.
    for name, transpose in (("stored", True), ("columns", False)):
        if transpose:
            g, d = gate_up.transpose(1, 2), down.transpose(1, 2)
        else:
            g, d = gate_up.transpose(1, 2).contiguous(), down.transpose(1, 2).contiguous()
        y = torch._grouped_mm(x, g, offs=ends)
        act = torch.nn.functional.silu(y[:, :INTERMEDIATE]) * y[:, INTERMEDIATE:]
        up_ms = milliseconds(lambda: torch._grouped_mm(x, g, offs=ends), rested)
        down_ms = milliseconds(lambda: torch._grouped_mm(act, d, offs=ends), rested)
        flop = 2e-9 * pairs * HIDDEN * INTERMEDIATE
        print(f"torch {name:8} {tokens:6} tokens: gate+up {up_ms:.3f} ms {2 * flop / up_ms:4.0f} "
              f"TFLOP/s | down {down_ms:.3f} ms {flop / down_ms:4.0f}", flush=True)


for rested in (True, False):
    print("rested" if rested else "full queue")
    for count in [int(a) for a in sys.argv[1:]] or [4096, 16384, 65536]:
        bench(count, rested)
