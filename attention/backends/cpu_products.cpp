#include "attention/backends/cpu_products.h"

#include <omp.h>

#include <array>
#include <dnnl.hpp>
#include <map>
#include <unordered_map>

#include "runtime/core/check.h"
#include "runtime/core/tensor.h"

namespace longhaul::attention::cpu {
namespace {

using dnnl::memory;

// c [m, n] (+)= a [m, k] b [k, n]; strides in elements.
struct Product {
  int64_t m, n, k;
  int64_t a_stride;
  int64_t b_row_stride, b_column_stride;
  bool accumulate;
  auto operator<=>(const Product&) const = default;
};

struct Prepared {
  dnnl::matmul primitive;
  memory a, b, c, scratchpad;
  std::unordered_map<int, memory> arguments;
};

dnnl::matmul::primitive_desc describe(const dnnl::engine& engine, const Product& p,
                                      memory::data_type type) {
  const memory::desc a({p.m, p.k}, type, memory::dims{p.a_stride, 1});
  const memory::desc b({p.k, p.n}, type, memory::dims{p.b_row_stride, p.b_column_stride});
  const memory::desc c({p.m, p.n}, memory::data_type::f32, memory::dims{p.n, 1});
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (p.accumulate) {
    dnnl::post_ops post;
    post.append_sum(1.0f);
    attributes.set_post_ops(post);
  }
#if DNNL_VERSION_MAJOR >= 3
  return dnnl::matmul::primitive_desc(engine, a, b, c, attributes);
#else
  return dnnl::matmul::primitive_desc(dnnl::matmul::desc(a, b, c), attributes, engine);
#endif
}

// dnnl errors carry no more than a status: say what was asked for.
template <class F>
decltype(auto) checked(const Product& p, F&& f) {
  try {
    return f();
  } catch (const dnnl::error& e) {
    if (e.status == dnnl_out_of_memory)
      fail(ExitCode::resource, "out of memory in an attention tile of {} x {} x {}", p.m, p.n, p.k);
    LH_CHECK(false, "oneDNN: {} (status {}) in a product of {} x {} x {}", e.message,
             static_cast<int>(e.status), p.m, p.n, p.k);
    throw;
  }
}

}  // namespace

struct TileProducts::Impl {
  DType dtype;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::map<Product, Prepared> prepared;
  Tensor scratchpad;  // shared by the primitives: they run one after the other

  explicit Impl(DType d) : dtype(d) {}

  Prepared& get(const Product& p) {
    const auto found = prepared.find(p);
    if (found != prepared.end()) return found->second;
    return checked(p, [&]() -> Prepared& {
      const auto pd = describe(
          engine, p, dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32);
      Prepared made{dnnl::matmul(pd),
                    memory(pd.src_desc(), engine, nullptr),
                    memory(pd.weights_desc(), engine, nullptr),
                    memory(pd.dst_desc(), engine, nullptr),
                    memory(pd.scratchpad_desc(), engine, nullptr),
                    {}};
      const auto bytes = static_cast<int64_t>(pd.scratchpad_desc().get_size());
      if (!scratchpad.defined() || scratchpad.num_bytes() < bytes)
        scratchpad = Tensor(DType::u8, {bytes});
      made.arguments = {{DNNL_ARG_SRC, made.a},
                        {DNNL_ARG_WEIGHTS, made.b},
                        {DNNL_ARG_DST, made.c},
                        {DNNL_ARG_SCRATCHPAD, made.scratchpad}};
      return prepared.emplace(p, std::move(made)).first->second;
    });
  }

  void run(const Product& p, const void* a, const void* b, float* c) {
    thread_local const bool one_thread = (omp_set_num_threads(1), true);
    (void)one_thread;
    Prepared& ready = get(p);
    checked(p, [&] {
      // dnnl::memory knows no const; sources are only read.
      ready.a.set_data_handle(const_cast<void*>(a));
      ready.b.set_data_handle(const_cast<void*>(b));
      ready.c.set_data_handle(c);
      ready.scratchpad.set_data_handle(scratchpad.data());
      ready.primitive.execute(stream, ready.arguments);
      stream.wait();
      return 0;
    });
  }
};

TileProducts::TileProducts(DType dtype) : impl_(std::make_unique<Impl>(dtype)) {}
TileProducts::~TileProducts() = default;
TileProducts::TileProducts(TileProducts&&) noexcept = default;

void TileProducts::scores(int64_t rows, int64_t columns, int64_t dim, const void* q, const void* k,
                          int64_t k_stride, float* scores) {
  impl_->run({rows, columns, dim, dim, 1, k_stride, false}, q, k, scores);
}

void TileProducts::accumulate(int64_t rows, int64_t columns, int64_t dim_v, const void* p,
                              int64_t p_stride, const void* v, int64_t v_stride, float* out) {
  impl_->run({rows, dim_v, columns, p_stride, v_stride, 1, true}, p, v, out);
}

bool has_bf16_products() {
  return __builtin_cpu_supports("avx512bf16") != 0;
}

}  // namespace longhaul::attention::cpu
