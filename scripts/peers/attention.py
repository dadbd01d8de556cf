"""PyTorch's attention on one GPU: cuDNN for whole sequences, varlen_attn for ragged batches.

Reads one problem a line from stdin as JSON {"lengths", "heads", "kv_heads", "head_dim", "paces"} and
answers each with a line of JSON, so that a driver can take turns with another program. Causal.
"""
import json
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import pace


def dense(p):
    tokens, dim = p["lengths"][0], p["head_dim"]
    q = torch.randn(1, p["heads"], tokens, dim, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(1, p["kv_heads"], tokens, dim, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def call():
        with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]), torch.no_grad():
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return call, "cuDNN"


def ragged(p):
    from torch.nn.attention.varlen import varlen_attn
    lengths, heads, dim = p["lengths"], p["heads"], p["head_dim"]
    total = sum(lengths)
    q = torch.randn(total, heads, dim, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(total, p["kv_heads"], dim, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    starts = torch.tensor([0] + lengths, device="cuda").cumsum(0).to(torch.int32)
    most = max(lengths)
    # Versions differ in how they are asked for a causal mask, and in whether KV heads may be fewer.
    for expand in (False, True):
        if expand:
            k, v = (x.repeat_interleave(heads // p["kv_heads"], 1) for x in (k, v))
        for mask in ({"is_causal": True}, {"window_size": (-1, 0)}):
            def call(k=k, v=v, mask=mask):
                with torch.no_grad():
                    return varlen_attn(q, k, v, starts, starts, most, most, **mask)
            try:
                call()
                torch.cuda.synchronize()
                return call, "varlen_attn"
            except (TypeError, RuntimeError, NotImplementedError):
                pass
    raise RuntimeError("varlen_attn takes none of the forms known")


def main():
    print(json.dumps({"torch": torch.__version__, "cudnn": torch.backends.cudnn.version(),
                      "device": torch.cuda.get_device_name()}), flush=True)
    for line in sys.stdin:
        problem = json.loads(line)
        try:
            call, name = (dense if len(problem["lengths"]) == 1 else ragged)(problem)
            answer = {"peer": name, "ms": {p: pace.milliseconds(call, p) for p in problem["paces"]}}
            answer["matmul_tflops"] = pace.matmul_tflops()
        except Exception as e:
            answer = {"error": f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"[:200]}
        call = None
        torch.cuda.empty_cache()
        print(json.dumps(answer), flush=True)


main()
