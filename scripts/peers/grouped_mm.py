"""PyTorch's grouped matrix product over experts: gate and up (and SwiGLU apart), down. Prints JSON."""
import json
import sys

import torch

import pace

EXPERTS, HIDDEN, INTERMEDIATE, TOP_K = 128, 2048, 768, 8


def measure(tokens, paces):
    rows = tokens * TOP_K
    ids = torch.randint(0, EXPERTS, (rows,))
    ends = torch.bincount(ids, minlength=EXPERTS).cumsum(0).to(torch.int32).cuda()
    x = torch.randn(rows, HIDDEN, device="cuda", dtype=torch.bfloat16)
    up = torch.randn(EXPERTS, HIDDEN, 2 * INTERMEDIATE, device="cuda", dtype=torch.bfloat16) * 0.02
    down = torch.randn(EXPERTS, INTERMEDIATE, HIDDEN, device="cuda", dtype=torch.bfloat16) * 0.02
    y = torch._grouped_mm(x, up, offs=ends)
    act = torch.nn.functional.silu(y[:, :INTERMEDIATE]) * y[:, INTERMEDIATE:]
    result = {"tokens": tokens}
    for p in paces:
        t_up = pace.milliseconds(lambda: torch._grouped_mm(x, up, offs=ends), p)
        t_down = pace.milliseconds(lambda: torch._grouped_mm(act, down, offs=ends), p)
        t_act = pace.milliseconds(
            lambda: torch.nn.functional.silu(y[:, :INTERMEDIATE]) * y[:, INTERMEDIATE:], p, 1)
        flops = 2 * rows * HIDDEN * INTERMEDIATE / 1e9
        result[p] = {"gate_up_ms": t_up, "gate_up_tflops": 2 * flops / t_up, "down_ms": t_down,
                     "down_tflops": flops / t_down, "swiglu_ms": t_act}
    return result


print(json.dumps({"torch": torch.__version__,
                  "results": [measure(int(n), ["rested", "full queue"]) for n in sys.argv[1].split(",")]}))
