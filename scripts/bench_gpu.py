"""The driver behind bench-gpu.sh: runs longhaul and its peers in turn, row by row of the comparison table.

A row that fails says why in one line and the next goes on; nothing runs longer than its limit, nor all
together longer than the budget. Needs only Python's standard library.
"""
import argparse
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
MODEL = HERE.parent / "tests/data/models/qwen3_30b_a3b"
PACES = ("rested", "full queue")
KIB, MIB = 1 << 10, 1 << 20


class Failed(Exception):
    """One line on what went wrong; `out`: what the program had printed by then."""

    def __init__(self, why, out=""):
        super().__init__(why)
        self.out = out


def last_line(text):
    lines = [line for line in text.strip().splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("longhaul")]
    return (ours or lines or ["no message"])[-1][:200]


def documents(total=65536):
    """Document lengths drawn from a public histogram, packed to `total` tokens: 44 of them."""
    random.seed(0)
    histogram = [(100, 8.3), (200, 10.2), (500, 28.2), (1024, 24.6), (2048, 15.7), (4096, 7.3), (8192, 3.1),
                 (16384, 1.3)]
    lengths = []
    while sum(lengths) < total:
        x, low = random.random() * sum(p for _, p in histogram), 1
        for high, p in histogram:
            if x < p:
                lengths.append(random.randint(low, high))
                break
            x -= p
            low = high
    lengths[-1] -= sum(lengths) - total
    return lengths if lengths[-1] > 0 else lengths[:-1]


class Server:
    """A peer that answers a line of JSON with a line of JSON."""

    def __init__(self, bench, script):
        self.bench, self.process, self.why = bench, None, None
        try:
            self.process = subprocess.Popen([bench.python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=bench.log, cwd=PEERS, env=bench.env, start_new_session=True)
            self.hello = self.read(60)
        except (Failed, OSError) as e:
            said = last_line((bench.out / "log.txt").read_text(errors="replace")[-2000:])
            self.stop(f"{script.name}: {e}: {said}")

    def read(self, limit):
        end, line = time.monotonic() + min(limit, self.bench.left()), b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise Failed(f"no answer in {limit:.0f} s")
            byte = os.read(self.process.stdout.fileno(), 65536)
            if not byte:
                raise Failed("it ended")
            line += byte
        return json.loads(line)

    def ask(self, problem, limit):
        if self.process is None:
            raise Failed(self.why)
        try:
            self.process.stdin.write(json.dumps(problem).encode() + b"\n")
            self.process.stdin.flush()
            answer = self.read(limit)
        except (Failed, OSError) as e:
            self.stop(str(e))
            raise Failed(self.why) from None
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def stop(self, why="stopped"):
        if self.process is not None:
            end_group(self.process)
        self.process, self.why = None, why


def end_group(process):
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(5)
        except (subprocess.TimeoutExpired, OSError):
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except OSError:
                pass
            process.wait()


class Bench:
    def __init__(self, args):
        self.args, self.gpus = args, args.gpus
        self.binary, self.python = os.path.abspath(os.environ["LONGHAUL"]), sys.executable
        self.out = Path(args.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.log = open(self.out / "log.txt", "wb")
        self.end = time.monotonic() + args.budget
        self.rows, self.raw, self.peers, self.cache = [], {}, {}, {}
        self.env = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                        NCCL_NVLS_ENABLE="0", PYTHONUNBUFFERED="1", TOKENIZERS_PARALLELISM="false")
        # Containers seldom let ranks read each other's memory.
        self.env.setdefault("OMPI_MCA_btl_vader_single_copy_mechanism", "none")
        # Libraries of the program's own, which the peers must not load in place of theirs.
        libraries = [os.environ.get("LONGHAUL_LIBS", ""), os.environ.get("LD_LIBRARY_PATH", "")]
        self.own_env = dict(self.env, LD_LIBRARY_PATH=":".join(x for x in libraries if x))

    def left(self):
        return max(0.0, self.end - time.monotonic())

    def run(self, command, limit, env=None):
        """-> (exit code, stdout). Its stderr goes to log.txt."""
        limit = min(limit, self.left())
        if limit < 5:
            raise Failed("not run: the time is used up")
        self.log.write(f"\n== {' '.join(map(str, command))}\n".encode())
        self.log.flush()
        begin = self.log.tell()
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, env=env or self.env,
                                       cwd=PEERS, start_new_session=True)
        except OSError as e:
            raise Failed(f"{command[0]}: {e.strerror}") from None
        try:
            out, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            end_group(process)
            out, _ = process.communicate()
            raise Failed(f"ended after {limit:.0f} s", out.decode(errors="replace")) from None
        finally:
            end_group(process)
        self.log.write(out)
        self.log.flush()
        text = out.decode(errors="replace")
        if process.returncode not in (0, 1) or not text.strip():
            with open(self.out / "log.txt", "rb") as log:
                log.seek(begin)
                said = log.read().decode(errors="replace")
            raise Failed(f"exit {process.returncode}: {last_line(said)}", text)
        return process.returncode, text

    def ours(self, arguments, ranks=1, limit=60):
        """longhaul bench ... --json -> its JSON, kept among the raw figures."""
        launch = [os.environ.get("MPIRUN", "mpirun"), "--oversubscribe", "--bind-to", "none", "-np", str(ranks)]
        command = (launch if ranks > 1 else []) + [self.binary, "bench", *map(str, arguments), "--json"]
        code, text = self.run(command, limit, self.own_env)
        try:
            result = json.loads(text)
        except ValueError:
            raise Failed(f"exit {code}: no JSON: {last_line(text)}") from None
        result["right"] = code == 0
        self.raw.setdefault("longhaul", []).append({"command": " ".join(command), "result": result})
        return result

    def lines(self, command, limit):
        """A peer that prints lines of JSON -> them."""
        why = None
        try:
            text = self.run(command, limit)[1]
        except Failed as e:  # lines printed so far count
            text, why = e.out, e
        found = [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]
        if not found:
            raise why or Failed(f"no figures: {last_line(text)}")
        self.raw.setdefault("peers", []).append({"command": " ".join(map(str, command)), "results": found})
        return found

    def attention_peer(self, problem):
        if "attention" not in self.peers:
            self.peers["attention"] = Server(self, PEERS / "attention.py")
        answer = self.peers["attention"].ask(problem, 60)
        self.raw.setdefault("peers", []).append({"problem": problem, "results": answer})
        return answer

    def once(self, key, work):
        """The result of work(), kept for rows that share it; a failure too."""
        if key not in self.cache:
            try:
                self.cache[key] = work()
            except Failed as e:
                self.cache[key] = e
        if isinstance(self.cache[key], Failed):
            raise self.cache[key]
        return self.cache[key]

    def add(self, row, today, peer="", ratio="", status=""):
        self.rows.append({"id": row.id, "what": row.what, "today": today, "peer": peer, "ratio": ratio,
                          "first bar": row.bar_text, "goal": row.goal_text, "status": status})
        print(f"[{self.args.budget - self.left():4.0f} s] {row.id}: {today} | peer {peer or '-'} | ratio {ratio or '-'} "
              f"| {status}", flush=True)
        self.save()

    def save(self):
        keys = ("what", "today", "peer", "ratio", "first bar", "goal", "status")
        head = ("what", "today", "peer, same run", "ratio", "first bar", "goal", "")
        lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        order = [r.id for r in rows()]
        self.rows.sort(key=lambda r: order.index(r["id"]))
        lines += ["| " + " | ".join(str(r[k]) for k in keys) + " |" for r in self.rows]
        replace(self.out / "table.md", "\n".join(lines) + "\n")
        whole = {"gpus": self.gpus, "seconds": self.args.budget - self.left(), "rows": self.rows, **self.raw}
        replace(self.out / "results.json", json.dumps(whole, indent=1) + "\n")


def replace(path, text):
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.replace(path)


def verdict(values, bar, goal, higher=True, right=True):
    """The worst of the values decides."""
    if not right:
        return "WRONG RESULT"
    worst = min(values) if higher else max(values)

    def reaches(limit):
        return limit is not None and (worst >= limit if higher else worst <= limit)
    return "goal" if reaches(goal) else "pass" if reaches(bar) else "FAIL" if bar is not None else ""


def both(values, form="{:.0f}"):
    return " / ".join(form.format(v) for v in values)


class Row:
    def __init__(self, id, what, gpus, bar, goal, work, unit="x"):
        self.id, self.what, self.gpus, self.bar, self.goal, self.work = id, what, gpus, bar, goal, work

        def text(limit):
            sign = "<=" if unit in ("ms", "s") else ">="
            return "" if limit is None else f"{sign} {limit} {unit}"
        self.bar_text, self.goal_text = text(bar), text(goal)

    def run(self, bench):
        try:
            self.work(bench, self)
        except Failed as e:
            bench.add(self, "not measured", status=str(e))
        except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as e:
            bench.add(self, "not measured", status=f"unexpected result: {type(e).__name__} {e}")


def by_pace(result, key):
    rows = {r["pace"]: r[key] for r in result["results"]}
    return [rows[p] for p in PACES]


def attention_arguments(lengths, heads, kv_heads, dim, *more):
    return ["attention", "--backend", "cuda", "--lengths", ",".join(map(str, lengths)), "--heads", f"{heads}/{kv_heads}",
            "--head-dim", dim, "--pace", "both", "--repeat", 2, *more]


def attention(lengths, heads, kv_heads, dim):
    """Ours, the peer, ours again; TFLOP/s rested / full queue."""
    def work(bench, row):
        runs = [bench.ours(attention_arguments(lengths, heads, kv_heads, dim))]
        peer = why = None
        try:
            peer = bench.attention_peer({"lengths": lengths, "heads": heads, "kv_heads": kv_heads, "head_dim": dim,
                                         "paces": PACES})
            runs.append(bench.ours(attention_arguments(lengths, heads, kv_heads, dim)))
        except Failed as e:
            why = str(e)
        rates = [sum(by_pace(r, "tflops_per_gpu")[i] for r in runs) / len(runs) for i in range(2)]
        shares = [sum(by_pace(r, "of_matmul")[i] for r in runs) / len(runs) for i in range(2)]
        today = f"{both(rates)} TFLOP/s ({both(shares, '{:.2f}')} of matmul)"
        right = all(r["right"] for r in runs)
        if peer is None:
            bench.add(row, today, "missing", status="WRONG RESULT" if not right else f"peer missing: {why}")
            return
        peers = [runs[0]["flops_per_gpu"] / peer["ms"][p] / 1e9 for p in PACES]
        ratios = [a / b for a, b in zip(rates, peers)]
        bench.add(row, today, f"{peer['peer']} {both(peers)}", both(ratios, "{:.2f}"),
                  verdict(ratios, row.bar, row.goal, right=right))
    return work


def share(prefix):
    """One rank's part of 4, beside one sequence alone."""
    def work(bench, row):
        whole = bench.once("attention 64K", lambda: bench.ours(attention_arguments([65536], 32, 4, 128)))
        part = bench.ours(attention_arguments([65536], 32, 4, 128, "--share", "1/4", "--layout", "zigzag", "--prefix",
                                              prefix))
        rates, dense = by_pace(part, "tflops_per_gpu"), by_pace(whole, "tflops_per_gpu")
        ratios = [a / b for a, b in zip(rates, dense)]
        bench.add(row, f"{both(rates)} TFLOP/s", f"own dense 64K {both(dense)}", both(ratios, "{:.3f}"),
                  verdict(ratios, row.bar, row.goal, right=part["right"] and whole["right"]))
    return work


def experts(product):
    def work(bench, row):
        tokens = 16384
        mine = bench.once("moe", lambda: bench.ours(["moe", "--backend", "cuda", "--tokens", tokens, "--pace", "both"]))
        rates = by_pace(mine, f"{product}_tflops")
        today = f"{both(rates)} TFLOP/s; block {both(by_pace(mine, 'block_ms'), '{:.2f}')} ms"
        try:
            peer = bench.once("grouped_mm", lambda: bench.lines(
                [bench.python, str(PEERS / "grouped_mm.py"), str(tokens)], 60))[0]["results"][0]
        except Failed as e:
            bench.add(row, today, "missing", status=f"peer missing: {e}" if mine["right"] else "WRONG RESULT")
            return
        peers = [peer[p][f"{product}_tflops"] for p in PACES]
        ratios = [a / b for a, b in zip(rates, peers)]
        bench.add(row, today, f"_grouped_mm {both(peers)}" + (" without SwiGLU" if product == "gate_up" else ""),
                  both(ratios, "{:.2f}"), verdict(ratios, row.bar, row.goal, right=mine["right"]))
    return work


def model_folder(bench):
    if not (MODEL / "config.json").exists():
        raise Failed(f"{MODEL}/config.json is not here")
    return str(MODEL)


def prefill(tokens, lengths, ranks, earlier):
    """`lengths`: what one process measures, so that the weights are made once."""
    def work(bench, row):
        arguments = ["prefill", "--backend", "cuda", "--model", model_folder(bench), "--load-format", "random",
                     "--lengths", ",".join(map(str, lengths)), "--each", "--ranks", ranks, "--repeat", 3, "--seconds",
                     20, "--timeout", 120]
        mine = bench.once(f"prefill {lengths} {ranks}", lambda: bench.ours(arguments, ranks, 300))
        found = next(r for r in mine["results"] if r["lengths"] == [tokens])
        ms, peer, ratio = found["median_ms"], earlier, ""
        if bench.args.transformers and ranks == 1:
            try:
                results = bench.once("transformers", lambda: bench.lines(
                    [bench.python, str(PEERS / "transformers_prefill.py"), ",".join(map(str, lengths))], 150))
                other = next(r for r in results if r["tokens"] == tokens)["ms"]
                peer, ratio = f"transformers {other:.0f} ms", f"{other / ms:.2f}"
            except Failed as e:
                peer = f"missing: {e}"
        value = ms / 1000 if row.bar_text.endswith(" s") else ms
        bench.add(row, f"{ms:.0f} ms, {found['tflops_per_rank']:.0f} TFLOP/s per GPU ({found['of_matmul']:.2f} of matmul), "
                       f"{mine['device_memory_gb']:.0f} GB", peer, ratio,
                  verdict([value], row.bar, row.goal, higher=False, right=mine["right"]))
    return work


CP_LENGTHS = (16384, 65536, 131072, 262144, 1024)


def context_parallel(tokens, paces=PACES):
    def work(bench, row):
        mine = bench.ours(attention_arguments([tokens], 32, 4, 128, "--layout", "balanced"), 4, 90)
        times = dict(zip(PACES, by_pace(mine, "median_ms")))
        exchange = dict(zip(PACES, by_pace(mine, "exchange_ms")))
        alone = dict(zip(PACES, by_pace(mine, "attention_ms")))
        chosen = [times[p] for p in paces]
        today = (f"{both(chosen, '{:.3g}')} ms (exchange alone {both([exchange[p] for p in paces], '{:.3g}')}, attention "
                 f"alone {both([alone[p] for p in paces], '{:.3g}')}; {mine['exchange']})")
        try:
            results = bench.once("context_parallel", lambda: bench.lines(
                [bench.python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4",
                 str(PEERS / "context_parallel.py"), ",".join(map(str, CP_LENGTHS))], 90))
            found = next((r for r in results if r["tokens"] == tokens), {"error": "no answer"})
            if "ms" not in found:
                raise Failed(found["error"])
            peer, ratio = f"context_parallel {found['ms']:.3g} ms", f"{found['ms'] / max(chosen):.2f}"
        except Failed as e:
            peer, ratio = f"missing: {e}", ""
        bench.add(row, today, peer, ratio, verdict(chosen, row.bar, row.goal, higher=False, right=mine["right"]))
    return work


def gather(size):
    def work(bench, row):
        sizes = "64K,1M,4M,16M,33M,256M"
        mine = bench.once("comm", lambda: bench.ours(["comm", "--backend", "cuda", "--sizes", sizes], 4, 90))

        def rate(name):
            return next((r["gigabytes_per_s"] for r in mine["results"]
                         if r["operation"] == name and r["bytes_per_rank"] == size), None)
        peer_copy, nccl = rate("peer"), rate("nccl")
        if peer_copy is None:
            raise Failed("; ".join(mine["refused"])[:200] or "no peer copies here")
        bench.add(row, f"{peer_copy:.0f} GB/s", f"NCCL {nccl:.0f} GB/s" if nccl else "NCCL missing",
                  f"{peer_copy / nccl:.2f}" if nccl else "",
                  verdict([peer_copy], row.bar, row.goal, right=mine["right"]))
    return work


def rows():
    one, four = (16384, 65536), (16384, 65536, 262144)
    a, two = attention, "rested / full queue"
    return [
        Row("attention-8k", f"attention, 32/4 heads, D 128, causal 8K ({two})", 1, 1.05, 1.23, a([8192], 32, 4, 128)),
        Row("attention-32k", "the same, 32K", 1, 1.05, 1.17, a([32768], 32, 4, 128)),
        Row("attention-128k", "the same, 128K", 1, 1.05, 1.21, a([131072], 32, 4, 128)),
        Row("wide-8k", "64/8 heads, 8K", 1, 1.05, 1.17, a([8192], 64, 8, 128)),
        Row("wide-32k", "the same, 32K", 1, 1.05, 1.13, a([32768], 64, 8, 128)),
        Row("wide-64k", "the same, 64K", 1, 1.05, 1.13, a([65536], 64, 8, 128)),
        Row("d64", "D 64, 64/8 heads, 8K", 1, 1.0, 1.1, a([8192], 64, 8, 64)),
        Row("d256", "D 256, 16/2 heads, 8K", 1, 0.95, 1.05, a([8192], 16, 2, 256)),
        Row("ragged", "ragged causal batch, 44 documents, 64K tokens", 1, 1.6, 1.96, a(documents(), 32, 4, 128)),
        Row("share", "one rank's zigzag share of 4 at 64K, one launch", 1, 0.93, 0.98, share(0), "of dense"),
        Row("share-prefix", "the same behind 32K cached tokens", 1, 0.93, 0.98, share(32768), "of dense"),
        Row("experts-up", "experts' gate and up with SwiGLU, 16K tokens", 1, 1.0, 1.1, experts("gate_up")),
        Row("experts-down", "experts' down, 16K tokens", 1, 1.0, 1.1, experts("down")),
        Row("prefill-16k", "whole prefill, 30B-A3B shapes, 1 GPU, 16K", 1, 420, 340,
            prefill(16384, one, 1, "transformers 665 ms (earlier)"), "ms"),
        Row("prefill-64k", "the same, 64K", 1, 3.8, 3.3, prefill(65536, one, 1, "transformers 4.64 s (earlier)"), "s"),
        Row("cp-16k", f"context-parallel attention, 4 GPUs, 32/4, D 128, 16K ({two})", 4, 1.25, 1.0,
            context_parallel(16384), "ms"),
        Row("cp-64k", "the same, 64K", 4, 15.5, 13.7, context_parallel(65536), "ms"),
        Row("cp-128k", "the same, 128K", 4, 59, 54, context_parallel(131072), "ms"),
        Row("cp-256k", "the same, 256K", 4, 235, 214, context_parallel(262144), "ms"),
        Row("cp-fixed", "cost per layer at 1,024 tokens, 4 GPUs (full queue)", 4, 0.10, 0.06,
            context_parallel(1024, PACES[1:]), "ms"),
        Row("gather-1m", "copy-engine all-gather, 1 MiB a rank, 4 GPUs", 4, 130, 150, gather(MIB), "GB/s"),
        Row("gather-33m", "the same, 33 MiB", 4, 350, 370, gather(33 * MIB), "GB/s"),
        Row("prefill4-16k", "whole prefill, 30B-A3B shapes, 4 GPUs, 16K", 4, 130, 105, prefill(16384, four, 4, ""), "ms"),
        Row("prefill4-64k", "the same, 64K", 4, 1.0, 0.88, prefill(65536, four, 4, ""), "s"),
        Row("prefill4-256k", "the same, 256K", 4, 13, 11, prefill(262144, four, 4, ""), "s"),
        Row("million", "1,048,576 tokens on 4 GPUs", 4, 215, 180, prefill(1 << 20, (1 << 20,), 4, ""), "s"),
    ]


def parse():
    parser = argparse.ArgumentParser(prog="bench-gpu.sh", description=__doc__)
    parser.add_argument("gpus", nargs="?", type=int, choices=(1, 4), default=1)
    parser.add_argument("--rows", help="comma-separated ids, or beginnings of them (default: all of these GPUs)")
    parser.add_argument("--list", action="store_true", help="the ids, and nothing else")
    parser.add_argument("--million", action="store_true", help="with 4 GPUs: the row of a million tokens too")
    parser.add_argument("--transformers", action="store_true", help="with 1 GPU: measure transformers' prefill too")
    parser.add_argument("--out", default=str(HERE.parent / "build/bench-gpu"))
    parser.add_argument("--budget", type=float, help="seconds for all (default: 235; 4 GPUs: 290; more for --million "
                                                     "and --transformers)")
    args = parser.parse_args()
    if args.budget is None:
        args.budget = (290 if args.gpus == 4 else 235) + (300 if args.million else 0) + (150 if args.transformers else 0)
    return args


def main():
    args = parse()
    chosen = [r for r in rows() if r.gpus == args.gpus]
    if args.rows:
        wanted = [w for w in args.rows.split(",") if w]
        unknown = [w for w in wanted if not any(r.id.startswith(w) for r in chosen)]
        if unknown:
            sys.exit(f"bench-gpu.sh: no row '{unknown[0]}' for {args.gpus} GPU(s); --list shows them")
        chosen = [r for r in chosen if any(r.id.startswith(w) for w in wanted)]
    if not args.million and not (args.rows and "million" in args.rows):
        chosen = [r for r in chosen if r.id != "million"]
    if args.list:
        for r in rows():
            print(f"{r.id:16s} {r.gpus} GPU{'s' if r.gpus > 1 else ' '}  {r.what}")
        return
    for program in ("mpirun",) if any(r.gpus > 1 for r in chosen) else ():
        if shutil.which(os.environ.get("MPIRUN", program)) is None:
            sys.exit(f"bench-gpu.sh: {os.environ.get('MPIRUN', program)} is not here; set MPIRUN")
    bench = Bench(args)
    try:
        # Whole prefills first: should the time run out, they are not what is missing.
        for row in sorted(chosen, key=lambda r: (r.id == "million", not r.id.startswith("prefill"))):
            row.run(bench)
    except KeyboardInterrupt:
        print("bench-gpu.sh: interrupted; results so far are kept", file=sys.stderr)
    finally:
        for peer in bench.peers.values():
            peer.stop()
        bench.save()
    print("\n" + (bench.out / "table.md").read_text())
    print(f"raw figures: {bench.out / 'results.json'}")
    bad = [r["id"] for r in bench.rows if r["status"] not in ("pass", "goal")]
    if bad:
        print("short of the first bar, wrong or not measured:", ", ".join(bad))
    sys.exit(1 if bad else 0)


main()
