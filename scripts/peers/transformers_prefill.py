"""Prefill by the transformers library on one GPU: Qwen3-30B-A3B's shapes, random bf16 weights, cuDNN
attention, grouped expert products. usage: transformers_prefill.py TOKENS,... Prints a line of JSON each."""
import json
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

THETA, DIM = 1e6, 128


def make_model():
    config = Qwen3MoeConfig(
        vocab_size=151936, hidden_size=2048, intermediate_size=6144, moe_intermediate_size=768, num_hidden_layers=48,
        num_attention_heads=32, num_key_value_heads=4, head_dim=DIM, num_experts=128, num_experts_per_tok=8,
        norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[], max_position_embeddings=262144,
        rope_theta=THETA, tie_word_embeddings=False)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa",
                                                 experts_implementation="grouped_mm")
    model = model.to_empty(device="cuda").eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.02)
    rotary = model.model.rotary_emb  # its table was not made on the meta device
    rotary.inv_freq = 1.0 / THETA ** (torch.arange(0, DIM, 2, device="cuda").float() / DIM)
    if hasattr(rotary, "original_inv_freq"):
        rotary.original_inv_freq = rotary.inv_freq
    return model


def main():
    model = make_model()
    for tokens in map(int, sys.argv[1].split(",")):
        ids = torch.randint(0, 151936, (1, tokens), device="cuda")
        times = []
        for _ in range(4):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            with torch.no_grad(), sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
                model(ids, use_cache=True, logits_to_keep=1)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        print(json.dumps({"tokens": tokens, "ms": 1e3 * sorted(times[1:])[1],
                          "memory_gb": torch.cuda.max_memory_allocated() / 1e9}), flush=True)


main()
