"""Times PyTorch's attention on the problems of portable_bench: FlashAttention-2 in bf16, and in float32
(TF32 off) the memory-efficient kernel. usage: portable_peers.py [repeats]"""
import sys
import torch
import torch.nn.functional as F
from torch.nn.attention import sdpa_kernel, SDPBackend

torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False
repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 15


def median_ms(call):
    for _ in range(2):
        call()
    spans = []
    for _ in range(repeats):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        call()
        b.record()
        torch.cuda.synchronize()
        spans.append(a.elapsed_time(b))
    return sorted(spans)[len(spans) // 2]


def row(dtype, heads, kv_heads, dim, tokens, causal):
    q = torch.randn(1, heads, tokens, dim, device="cuda", dtype=dtype)
    k, v = (torch.randn(1, kv_heads, tokens, dim, device="cuda", dtype=dtype) for _ in range(2))
    backend = SDPBackend.FLASH_ATTENTION
    if dtype == torch.float32:  # takes no grouped heads
        backend = SDPBackend.EFFICIENT_ATTENTION
        k, v = (x.repeat_interleave(heads // kv_heads, 1) for x in (k, v))
    with sdpa_kernel([backend]):
        ms = median_ms(lambda: F.scaled_dot_product_attention(
            q, k, v, is_causal=causal, enable_gqa=dtype != torch.float32))
    flops = 4 * tokens * tokens * heads * dim * (0.5 if causal else 1)
    print(f"{str(dtype)[6:]:9s} {heads:3d}/{kv_heads:<3d} D {dim:3d} {tokens:6d} "
          f"{'causal' if causal else 'full':6s} {ms:9.3f} ms {flops / ms / 1e9:7.1f} TFLOP/s")


b = torch.bfloat16
for problem in [(b, 32, 4, 128, 8192, True), (b, 32, 4, 128, 32768, True), (b, 32, 4, 128, 2048, True),
                (b, 32, 4, 128, 8192, False), (b, 64, 8, 64, 8192, True), (b, 16, 2, 256, 8192, True),
                (b, 32, 32, 96, 8192, True), (b, 32, 4, 32, 8192, True),
                (torch.float32, 32, 4, 128, 4096, True), (torch.float32, 64, 8, 64, 4096, True)]:
    row(*problem)
