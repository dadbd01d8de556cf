"""PyTorch's context_parallel (head-tail balanced) with cuDNN attention, one process a GPU; causal, one
sequence, 32 query and 4 KV heads of 128. usage: torchrun --nproc-per-node 4 context_parallel.py TOKENS,...
Rank 0 prints a line of JSON for each length as soon as it has it."""
import json
import os
import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.experimental import context_parallel
from torch.nn.attention import SDPBackend, sdpa_kernel

HEADS, KV_HEADS, DIM = 32, 4, 128


def slowest(values):
    t = torch.tensor(values, device="cuda", dtype=torch.float64)
    dist.all_reduce(t, op=dist.ReduceOp.MAX)
    return t.tolist()


def median_ms(call, count):
    times = []
    for i in range(count + 2):
        dist.barrier()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        if i >= 2:
            times.append(begin.elapsed_time(end))
    return sorted(slowest(times))[count // 2]


def measure(mesh, tokens):
    # Some versions want as many KV heads as query heads.
    error = None
    for kv_heads in (KV_HEADS, HEADS):
        try:
            q = torch.randn(1, HEADS, tokens, DIM, device="cuda", dtype=torch.bfloat16)
            k, v = (torch.randn(1, kv_heads, tokens, DIM, device="cuda", dtype=torch.bfloat16) for _ in range(2))
            with context_parallel(mesh, buffers=[q, k, v], buffer_seq_dims=[2, 2, 2], no_restore_buffers={q, k, v}):
                with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]), torch.no_grad():
                    ms = median_ms(lambda: F.scaled_dot_product_attention(
                        q, k, v, is_causal=True, enable_gqa=kv_heads != HEADS), 7 if tokens < 200_000 else 5)
            return {"tokens": tokens, "kv_heads": kv_heads, "ms": ms}
        except Exception as e:
            error = f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"[:200]
    return {"tokens": tokens, "error": error}


def main():
    rank = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", device_id=torch.device("cuda", rank))
    mesh = init_device_mesh("cuda", (dist.get_world_size(),), mesh_dim_names=("cp",))
    try:  # the better of its two ways at these sizes
        from torch.distributed.tensor.experimental._attention import set_rotate_method
        set_rotate_method("allgather")
    except ImportError:
        pass
    for tokens in sys.argv[1].split(","):
        torch.manual_seed(0)
        result = measure(mesh, int(tokens))
        if rank == 0:
            print(json.dumps(result), flush=True)
    dist.destroy_process_group()


main()
