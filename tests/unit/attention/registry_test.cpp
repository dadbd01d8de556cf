// Which backend runs, and what is said about the others.

#include "attention/registry.h"

#include <gtest/gtest.h>

#include "attention/backends/reference.h"
#include "attention/context_parallel.h"
#include "attention/two_half.h"
#include "comm/thread_communicator.h"
#include "tests/unit/attention/problems.h"

namespace longhaul::attention::testing {
namespace {

std::string message_of(const std::function<void()>& f, ExitCode code) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "nothing thrown";
  return {};
}

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

TEST(Registry, ChoosesByPriorityAndSaysWhy) {
  const BackendChoice fast = select_backend({DType::bf16, 128, 128, true, false}, "");
  EXPECT_EQ(fast.backend->name(), fast.log[0] == "cuda: chosen" ? "cuda" : "cpu");
  const BackendChoice exact = select_backend({DType::f64, 128, 128, true, false}, "");
  EXPECT_EQ(exact.backend->name(), "reference");
  ASSERT_EQ(exact.log.size(), backend_names().size());
  // Where GPUs are built in they do not compute in float64, or there is none.
  EXPECT_TRUE(exact.log[0].starts_with("cuda: ")) << exact.log[0];
  EXPECT_NE(exact.log[0], "cuda: chosen");
  EXPECT_TRUE(contains(exact.log[2], "float64")) << exact.log[2];
  EXPECT_EQ(exact.log[3], "reference: chosen");
}

TEST(Registry, AForcedNameRunsOrFails) {
  const AttentionDesc f64{DType::f64, 64, 64, true, false};
  EXPECT_EQ(select_backend({DType::f32, 64, 64, true, false}, "reference").backend->name(),
            "reference");
  EXPECT_TRUE(
      contains(message_of([&] { select_backend(f64, "cpu"); }, ExitCode::usage), "float64"));
  EXPECT_TRUE(
      contains(message_of([&] { select_backend(f64, "cudnn"); }, ExitCode::usage), "not built"));
  EXPECT_TRUE(
      contains(message_of([&] { select_backend(f64, "cuda"); }, ExitCode::usage), "backend cuda"));
  EXPECT_TRUE(contains(message_of([&] { select_backend(f64, "refrence"); }, ExitCode::usage),
                       "did you mean reference"));
  EXPECT_TRUE(contains(message_of([&] { select_backend(f64, "zzz"); }, ExitCode::usage), "one of"));
  EXPECT_TRUE(contains(message_of(
                           [&] {
                             select_backend({DType::f32, 0, 4, true, false}, "");
                           },
                           ExitCode::usage),
                       "no attention backend"));
}

TEST(Registry, StrategyNames) {
  EXPECT_EQ(parse_strategy("allgather"), Strategy::allgather);
  EXPECT_EQ(strategy_name(Strategy::allgather), "allgather");
  EXPECT_TRUE(contains(message_of([] { parse_strategy("allgahter"); }, ExitCode::usage),
                       "did you mean allgather"));
}

TEST(Registry, RanksMustAgree) {
  const auto choose = [](comm::Communicator& comm, bool same) {
    const auto backend = select_backend({DType::f32, 64, 64, true, false},
                                        same || comm.rank() != 2 ? "" : "reference");
    check_backend_agreement(*backend.backend, comm);
  };
  comm::run_threads(4, [&](comm::Communicator& comm) { choose(comm, true); });
  const std::string message = message_of(
      [&] { comm::run_threads(4, [&](comm::Communicator& comm) { choose(comm, false); }); },
      ExitCode::usage);
  EXPECT_TRUE(contains(message, "rank 2 reference")) << message;
}

// The vendor contract with its edges: halves of different sizes, a sequence without queries in a
// half, and more queries than keys (bottom-right: the first ones see nothing).
TEST(TwoHalves, SplitsAtThePrevRowsAndIsBottomRight) {
  Rng rng(3);
  ThreadPool pool(1);
  const auto backend = make_reference_backend();
  backend->prepare({DType::f64, 8, 8, true, false}, 1);
  Problem p;
  p.dtype = DType::f64;
  p.heads = 2;
  p.kv_heads = 1;
  p.dim = p.dim_v = 8;
  p.scale = 0.5;
  p.rows = 3 + 9;
  p.q = Tensor(DType::f64, {p.rows, 2, 8});
  fill_normal(p.q, rng);
  for (int64_t keys : {4, 6}) {
    Tensor k(DType::f64, {keys, 1, 8}), v(DType::f64, {keys, 1, 8});
    fill_normal(k, rng);
    fill_normal(v, rng);
    p.kv.push_back({{0, keys, k.data(), v.data(), 8, 8}});
    p.memory.push_back(std::move(k));
    p.memory.push_back(std::move(v));
  }
  // prev: 3 queries of sequence 0 up to key 3; next: 7 of sequence 0 up to key 4, 2 of sequence 1.
  p.items = {{0, 0, 3, 0, 3}, {0, 3, 7, -3, 4}, {1, 10, 2, 4, 6}};
  layout::ContextParallelMetadata m;
  m.bs = 2;
  m.cu_seqlens_q_prev = {0, 3, 3};
  m.cu_seqlens_q_next = {0, 7, 9};
  m.kv_len_prev_list = {3, 0};
  m.kv_len_next_list = {4, 6};
  m.total_q_prev_tokens = 3;
  m.total_q_next_tokens = 9;
  m.max_seqlen_q_prev = 3;
  m.max_seqlen_q_next = 7;
  Result r{Tensor(DType::f64, {p.rows, 2, 8}), Tensor(DType::f64, {p.rows, 2})};
  int calls = 0;
  const AttnFn inner = make_attn_fn(*backend, pool, p.kv, 1, true, p.scale);
  const AttnFn attn_fn = [&](ConstTensorView q, std::span<const int32_t> cu,
                             std::span<const int32_t> kv, int32_t longest, TensorView out,
                             TensorView lse) {
    EXPECT_EQ(q.rows(), calls == 0 ? 3 : 9);
    EXPECT_EQ(longest, calls == 0 ? 3 : 7);
    ++calls;
    inner(q, cu, kv, longest, out, lse);
  };
  attend_two_halves(m, p.q, attn_fn, r.out, r.lse);
  EXPECT_EQ(calls, 2);
  const Difference d = difference(p, r, solve(p));
  EXPECT_LE(d.out, 1e-14);
  EXPECT_LE(d.lse, 1e-14);
  m.kv_len_next_list[1] = int64_t{1} << 31;
  EXPECT_TRUE(
      contains(message_of([&] { make_two_half_arguments(m); }, ExitCode::usage), "32 bits"));
}

}  // namespace
}  // namespace longhaul::attention::testing
