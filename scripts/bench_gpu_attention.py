"""Times longhaul's sm_90a attention kernel beside PyTorch's on one GPU, interleaved, one process.

usage: bench_gpu_attention.py [--suite NAME,...] [--rounds N] [--burst] [--json FILE] SHIM.so [NAME=OTHER.so ...]

Each row is one problem: PyTorch's cuDNN attention (or varlen_attn for ragged batches), the matrix
product 8192^3 of the same minute, and each library given. The median over all rounds is printed;
FLOPs count the unmasked area only, 4 * heads * D * pairs (causal S tokens: half of S^2, the usual
convention). Outputs of ours are compared with PyTorch's on the fly.
"""
import argparse, ctypes, json, random, time
import torch, torch.nn.functional as F
from torch.nn.attention import sdpa_kernel, SDPBackend

NO_MASK = 1 << 30
I64 = ctypes.c_int64


class Library:
    def __init__(self, spec):
        self.name, _, path = spec.rpartition("=")
        self.name = self.name or "ours"
        self.lib = ctypes.CDLL(path)
        self.lib.longhaul_plan.restype = ctypes.c_void_p

    def prepare(self, q, k, v, items, options=(0, False), pages=None):
        """q [T,H,D], k [S,Hk,D], v [S,Hk,Dv]; options: page size, deterministic; pages: the page table.
        Returns (call, out, lse)."""
        shape = (ctypes.c_int * 4)(q.shape[2], v.shape[2], q.shape[1], k.shape[1])
        flat = (I64 * (6 * len(items)))(*[x for item in items for x in (*item, -1)[:6]])
        sizes = (I64 * 3)()
        cores = torch.cuda.get_device_properties(0).multi_processor_count
        plan = self.lib.longhaul_plan(shape, flat, I64(len(items)), (ctypes.c_int * 3)(cores, *map(int, options)),
                                      sizes)
        assert plan
        host = torch.zeros(max(sizes[0], 1), dtype=torch.uint8)
        self.lib.longhaul_plan_table(ctypes.c_void_p(plan), ctypes.c_void_p(host.data_ptr()))
        table = host.cuda()
        workspace = torch.zeros(sizes[1], dtype=torch.uint8, device="cuda")
        out = torch.full((q.shape[0], q.shape[1], v.shape[2]), float("nan"), dtype=torch.bfloat16, device="cuda")
        lse = torch.full((q.shape[0], q.shape[1]), float("nan"), dtype=torch.float32, device="cuda")
        numbers = (I64 * 6)(q.shape[0], k.shape[0], q.stride(0), k.stride(0), v.stride(0), out.stride(0))
        p = lambda t: ctypes.c_void_p(t.data_ptr())
        args = (ctypes.c_void_p(plan), p(q), p(k), p(v), p(out), p(lse), numbers, ctypes.c_double(q.shape[2] ** -0.5),
                p(table), p(workspace), p(pages) if pages is not None else None)
        keep = (q, k, v, table, workspace, out, lse, pages)

        def call():
            keep
            status = self.lib.longhaul_attention(*args, ctypes.c_void_p(torch.cuda.current_stream().cuda_stream))
            assert status == 0
        return call, out, lse


class Meter:
    """SM clock (MHz) and board power (W), read while the queue is full; silent without NVML."""

    def __init__(self):
        try:
            import pynvml
            pynvml.nvmlInit()
            self.nvml, self.device = pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
        except Exception:
            self.nvml = None

    def read(self):
        if self.nvml is None:
            return (0.0, 0.0)
        return (float(self.nvml.nvmlDeviceGetClockInfo(self.device, self.nvml.NVML_CLOCK_SM)),
                self.nvml.nvmlDeviceGetPowerUsage(self.device) / 1000)


METER = Meter()


def times(call, count, synchronous=False):
    """Milliseconds of `count` calls, enqueued back to back or each waited for."""
    if synchronous:
        return [x for _ in range(count) for x in times(call, 1)]
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    marks[0].record()
    for i in range(count):
        call()
        marks[i + 1].record()
    torch.cuda.synchronize()
    return [marks[i].elapsed_time(marks[i + 1]) for i in range(count)]


def median(values):
    values = sorted(values)
    return values[len(values) // 2]


def dense(S, H, Hk, D, causal):
    q = torch.randn(S, H, D, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(S, Hk, D, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    flops = 4 * S * S * H * D * (0.5 if causal else 1)
    # PyTorch's own layout, [1, heads, tokens, D] contiguous, as its users hold it
    Q, K, V = (x.transpose(0, 1).unsqueeze(0).contiguous() for x in (q, k, v))

    def peer():
        with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
            return F.scaled_dot_product_attention(Q, K, V, is_causal=causal, enable_gqa=True)
    return dict(q=q, k=k, v=v, items=[(0, S, 0, S, 0 if causal else NO_MASK)], flops=flops, peer=peer,
                peer_out=lambda: peer()[0].transpose(0, 1))


def paged(S, H, Hk, D, page):
    """dense(), its keys in pages in random order."""
    problem = dense(S, H, Hk, D, True)
    order = torch.randperm(S // page, device="cuda")
    for name in ("k", "v"):
        rows = torch.empty_like(problem[name])
        rows.view(-1, page, Hk, D)[order] = problem[name].view(-1, page, Hk, D)
        problem[name] = rows
    return dict(problem, items=[(0, S, 0, S, 0, 0)], options=(page, False), pages=order.to(torch.int32))


def documents(T=65536):
    random.seed(0)
    hist = [(100, 8.3), (200, 10.2), (500, 28.2), (1024, 24.6), (2048, 15.7), (4096, 7.3), (8192, 3.1), (16384, 1.3)]
    lens = []
    while sum(lens) < T:
        x = random.random() * sum(p for _, p in hist)
        lo = 1
        for hi, p in hist:
            if x < p:
                lens.append(random.randint(lo, hi))
                break
            x -= p
            lo = hi
    lens[-1] -= sum(lens) - T
    if lens[-1] <= 0:
        lens.pop()
    return lens


def ragged(H, Hk, D):
    lens = documents()
    T = sum(lens)
    q = torch.randn(T, H, D, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(T, Hk, D, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    starts = [0]
    for n in lens:
        starts.append(starts[-1] + n)
    cu = torch.tensor(starts, device="cuda", dtype=torch.int32)
    flops = 4 * sum(n * (n + 1) // 2 for n in lens) * H * D
    from torch.nn.attention.varlen import varlen_attn

    def peer():
        for kw in (dict(is_causal=True), dict(window_size=(-1, 0))):
            try:
                return varlen_attn(q, k, v, cu, cu, max(lens), max(lens), **kw)
            except (TypeError, RuntimeError):
                pass
        k2, v2 = (x.repeat_interleave(H // Hk, 1) for x in (k, v))
        return varlen_attn(q, k2, v2, cu, cu, max(lens), max(lens), window_size=(-1, 0))
    return dict(q=q, k=k, v=v, items=[(s, n, s, n, 0) for s, n in zip(starts, lens)], flops=flops, peer=peer,
                peer_out=peer)


def zigzag(T, ranks, rank, H, Hk, D):
    """One rank's two halves of one sequence, keys gathered; no PyTorch call does this in one go."""
    c = T // (2 * ranks)
    q = torch.randn(2 * c, H, D, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(T, Hk, D, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    items, area = [], 0
    for n, chunk in enumerate((rank, 2 * ranks - 1 - rank)):
        items.append((n * c, c, 0, (chunk + 1) * c, chunk * c))
        area += c * chunk * c + c * c // 2
    return dict(q=q, k=k, v=v, items=items, flops=4 * area * H * D, peer=None, peer_out=None)


SUITES = {
    "core": [("32/4 D128 causal 8K", lambda: dense(8192, 32, 4, 128, True)),
             ("32/4 D128 causal 32K", lambda: dense(32768, 32, 4, 128, True)),
             ("32/4 D128 causal 128K", lambda: dense(131072, 32, 4, 128, True))],
    "small": [("32/4 D128 causal 2K", lambda: dense(2048, 32, 4, 128, True)),
              ("32/4 D128 full 8K", lambda: dense(8192, 32, 4, 128, False))],
    "wide": [("64/8 D128 causal 8K", lambda: dense(8192, 64, 8, 128, True)),
             ("64/8 D128 causal 32K", lambda: dense(32768, 64, 8, 128, True)),
             ("64/8 D128 causal 64K", lambda: dense(65536, 64, 8, 128, True))],
    "dims": [("64/8 D64 causal 8K", lambda: dense(8192, 64, 8, 64, True)),
             ("16/2 D256 causal 8K", lambda: dense(8192, 16, 2, 256, True))],
    "pages": [("32/4 D128 causal 8K, pages of 64", lambda: paged(8192, 32, 4, 128, 64)),
              ("32/4 D128 causal 32K, pages of 64", lambda: paged(32768, 32, 4, 128, 64)),
              ("32/4 D128 causal 32K, pages of 16", lambda: paged(32768, 32, 4, 128, 16)),
              ("32/4 D128 causal 8K, deterministic",
               lambda: dict(dense(8192, 32, 4, 128, True), options=(0, True))),
              ("32/4 D128 causal 32K, deterministic",
               lambda: dict(dense(32768, 32, 4, 128, True), options=(0, True)))],
    "ragged": [("ragged 44 documents 64K", lambda: ragged(32, 4, 128)),
               ("zigzag rank 1 of 4, 64K", lambda: zigzag(65536, 4, 1, 32, 4, 128))],
}


def matmul():
    x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    y = torch.randn_like(x)
    return 2 * 8192**3 / median(times(lambda: x @ y, 15)[3:]) / 1e9


def measure(name, problem, libraries, rounds, burst):
    entries, outs = {}, {}
    if problem["peer"]:
        entries["peer"] = problem["peer"]
        reference = problem["peer_out"]()
    for lib in libraries:
        entries[lib.name], outs[lib.name], lse = lib.prepare(
            problem["q"], problem["k"], problem["v"], problem["items"], problem.get("options", (0, False)),
            problem.get("pages"))
    single = {}
    for key, call in entries.items():
        call()
        torch.cuda.synchronize()
        single[key] = max(median(times(call, 3)), 1e-3)
    for key, out in outs.items():
        assert not torch.isnan(out.float()).any(), key
        if problem["peer"]:
            error = (out.float() - reference.float()).norm() / reference.float().norm()
            assert error < 1e-2, (name, key, float(error))
    samples, meter = {key: [] for key in entries}, {key: [] for key in entries}
    for _ in range(rounds):
        for key, call in entries.items():
            if burst:
                # a rested chip, a few calls: what one layer of a model sees, and what peers publish
                time.sleep(0.3)
                samples[key] += times(call, 15 if single[key] < 5 else 5, synchronous=True)
                continue
            # about 150 ms a turn: long enough to feel the power limit, short enough to share a minute
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(max(3, min(1000, int(150 / single[key]))))]
            for mark in marks:
                mark.record()
                call()
            time.sleep(0.1)
            meter[key].append(METER.read())
            torch.cuda.synchronize()
            spans = [a.elapsed_time(b) for a, b in zip(marks, marks[1:])]
            samples[key] += spans[len(spans) // 2:]  # the first half heats up
    for key, readings in meter.items():
        if readings:
            print(f"    {name} {key}: {median(c for c, _ in readings):.0f} MHz {median(w for _, w in readings):.0f} W")
    return {key: problem["flops"] / median(v) / 1e9 for key, v in samples.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--suite", default="core", help="comma-separated: " + ", ".join(SUITES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--burst", action="store_true", help="few calls on a rested chip instead of a full queue")
    parser.add_argument("--json")
    parser.add_argument("libraries", nargs="+")
    args = parser.parse_args()
    libraries = [Library(spec) for spec in args.libraries]
    product = [torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
    for _ in range(150):
        product[0] @ product[1]
    time.sleep(0.1)
    print("matrix product:", "%.0f MHz %.0f W" % METER.read())
    torch.cuda.synchronize()
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "cuDNN", torch.backends.cudnn.version())
    columns = ["peer"] + [lib.name for lib in libraries]
    print(f"{'TFLOP/s':36s}" + "".join(f"{c:>10s}" for c in columns) + "    matmul   best/peer", flush=True)
    rows = []
    for suite in args.suite.split(","):
        for name, make in SUITES[suite]:
            problem = make()
            result = measure(name, problem, libraries, args.rounds, args.burst)
            result["matmul"] = matmul()
            del problem
            torch.cuda.empty_cache()
            ours = max(result[lib.name] for lib in libraries)
            ratio = f"{ours / result['peer']:.3f}" if "peer" in result else "-"
            print(f"{name:36s}" + "".join(f"{result.get(c, float('nan')):10.1f}" for c in columns) +
                  f"{result['matmul']:10.1f}  {ratio:>8s}", flush=True)
            rows.append({"problem": name, **result})
    if args.json:
        with open(args.json, "w") as f:
            json.dump(rows, f, indent=1)


if __name__ == "__main__":
    main()
