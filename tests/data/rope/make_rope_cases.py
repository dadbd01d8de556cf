#!/usr/bin/env python3
"""Writes cases.json: inverse frequencies and attention scalings as transformers computes them.

transformers computes them in float32 tensors. Here its own functions run with torch.float (and
torch.float32) meaning float64, so that the literals are exact to double precision.
Usage: make_rope_cases.py > cases.json     (needs transformers 5 and torch)
"""
import json
import sys

import torch
import transformers
from transformers import modeling_rope_utils as rope

CASES = [
    # name, head_dim, rope parameters, max_position_embeddings
    ("standard", 64, {"rope_type": "default", "rope_theta": 10000.0}, 4096),
    ("qwen3", 128, {"rope_type": "default", "rope_theta": 1000000.0}, 40960),
    ("smallest", 2, {"rope_type": "default", "rope_theta": 10000.0}, 16),
    ("odd pairs", 6, {"rope_type": "default", "rope_theta": 500.0}, 16),
    ("llama 3.1", 128, {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
                        "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 8192}, 131072),
    ("llama 3.2", 64, {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0,
                       "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                       "original_max_position_embeddings": 8192}, 131072),
    ("llama3, short", 32, {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0,
                           "low_freq_factor": 1.0, "high_freq_factor": 2.0,
                           "original_max_position_embeddings": 64}, 256),
    ("llama3, no original", 64, {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0,
                                 "low_freq_factor": 1.0, "high_freq_factor": 4.0}, 2048),
    ("yarn, qwen3", 128, {"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0,
                          "original_max_position_embeddings": 32768}, 131072),
    ("yarn, deepseek", 64, {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0,
                            "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
                            "original_max_position_embeddings": 4096}, 163840),
    ("yarn, two mscales", 64, {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0,
                               "mscale": 0.707, "mscale_all_dim": 1.3,
                               "original_max_position_embeddings": 4096}, 163840),
    ("yarn, one mscale", 64, {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0,
                              "mscale": 0.707, "original_max_position_embeddings": 4096}, 163840),
    ("yarn, not truncated", 64, {"rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0,
                                 "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                                 "original_max_position_embeddings": 4096}, 131072),
    ("yarn, given attention factor", 96, {"rope_type": "yarn", "rope_theta": 10000.0,
                                          "factor": 8.0, "attention_factor": 1.25, "beta_fast": 16,
                                          "beta_slow": 2,
                                          "original_max_position_embeddings": 2048}, 16384),
    ("yarn, no factor", 64, {"rope_type": "yarn", "rope_theta": 10000.0, "factor": None,
                             "original_max_position_embeddings": 4096}, 65536),
    ("yarn, no original", 64, {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0}, 4096),
    ("yarn, no stretch", 64, {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 1.0,
                              "original_max_position_embeddings": 4096}, 4096),
    ("yarn, empty ramp", 4, {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
                             "original_max_position_embeddings": 8}, 32),
]


class Config(rope.RotaryEmbeddingConfigMixin):
    is_heterogeneous = False

    def __init__(self, head_dim, parameters, longest):
        self.head_dim = head_dim
        self.hidden_size = head_dim
        self.num_attention_heads = 1
        self.max_position_embeddings = longest
        self.rope_parameters = dict(parameters)


def default_frequencies(config):
    dim = config.head_dim
    exponents = torch.arange(0, dim, 2, dtype=torch.int64).to(torch.float) / dim
    return 1.0 / (config.rope_parameters["rope_theta"] ** exponents), 1.0


def main():
    torch.float = torch.float32 = torch.float64
    cases = []
    for name, head_dim, parameters, longest in CASES:
        config = Config(head_dim, parameters, longest)
        config.standardize_rope_params()
        kind = parameters["rope_type"]
        compute = default_frequencies if kind == "default" else rope.ROPE_INIT_FUNCTIONS[kind]
        frequencies, scaling = compute(config)
        assert frequencies.dtype == torch.float64
        cases.append({"name": name, "head_dim": head_dim, "parameters": parameters,
                      "max_position_embeddings": longest, "attention_scaling": float(scaling),
                      "inverse_frequencies": frequencies.tolist()})
    json.dump({"transformers": transformers.__version__, "cases": cases}, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
