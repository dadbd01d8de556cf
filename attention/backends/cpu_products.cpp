#include "attention/backends/cpu_products.h"

#include <array>
#include <compare>
#include <dnnl.hpp>
#include <map>
#include <unordered_map>

#include "runtime/core/check.h"
#include "runtime/core/tensor.h"
#include "runtime/ops/machine_peak.h"
#include "runtime/ops/thread_scratch.h"

namespace longhaul::attention::cpu {
namespace {

using dnnl::memory;

enum class Kind { scores, accumulate };

// c [m, n] (+)= a [m, k] b [k, n].
struct Product {
  Kind kind;
  int64_t m, n, k;
  bool packed;
  auto operator<=>(const Product&) const = default;
};

struct Prepared {
  dnnl::matmul primitive;
  memory a, b, c, scratchpad;
  std::unordered_map<int, memory> arguments;
};

// dnnl errors carry no more than a status: say what was asked for.
template <class F>
decltype(auto) checked(int64_t m, int64_t n, int64_t k, F&& f) {
  try {
    ops::keep_libraries_single_threaded();
    return f();
  } catch (const dnnl::error& e) {
    if (e.status == dnnl_out_of_memory)
      fail(ExitCode::resource, "out of memory in an attention tile of {} x {} x {}", m, n, k);
    LH_CHECK(false, "oneDNN: {} (status {}) in a product of {} x {} x {}", e.message,
             static_cast<int>(e.status), m, n, k);
    throw;
  }
}

}  // namespace

struct TileProducts::Impl {
  memory::data_type type;
  int64_t dim, dim_v;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::map<Product, Prepared> prepared;
  std::array<memory::desc, 2> packed_format;  // of a whole tile, [Kind]
  std::array<dnnl::reorder, 2> packing;
  Tensor scratchpad;  // shared by the primitives: they run one after the other

  Impl(DType dtype, int64_t d, int64_t dv)
      : type(dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32),
        dim(d),
        dim_v(dv) {}

  Product product(Kind kind, int64_t rows, int64_t columns, bool packed) const {
    return kind == Kind::scores ? Product{kind, rows, columns, dim, packed}
                                : Product{kind, rows, dim_v, columns, packed};
  }
  // b as it lies in memory: keys are [n, k], values [k, n].
  memory::desc plain(const Product& p) const {
    return {
        {p.k, p.n}, type, p.kind == Kind::scores ? memory::format_tag::ba : memory::format_tag::ab};
  }
  const memory::desc& packed(Kind kind) {
    memory::desc& format = packed_format[static_cast<size_t>(kind)];
    if (format.is_zero()) {
      const Product p = product(kind, kTileRows, kTileColumns, true);
      checked(p.m, p.n, p.k, [&] {
        format =
            describe(p, memory::desc({p.k, p.n}, type, memory::format_tag::any)).weights_desc();
        packing[static_cast<size_t>(kind)] =
            dnnl::reorder(dnnl::reorder::primitive_desc(engine, plain(p), engine, format));
        return 0;
      });
    }
    return format;
  }

  dnnl::matmul::primitive_desc describe(const Product& p, const memory::desc& b) const {
    const memory::desc a({p.m, p.k}, type, memory::format_tag::ab);
    const memory::desc c({p.m, p.n}, memory::data_type::f32, memory::format_tag::ab);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (p.kind == Kind::accumulate) {
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

  Prepared& get(const Product& p) {
    const auto found = prepared.find(p);
    if (found != prepared.end()) return found->second;
    const auto pd = describe(p, p.packed ? packed(p.kind) : plain(p));
    Prepared made{dnnl::matmul(pd),
                  memory(pd.src_desc(), engine, nullptr),
                  memory(pd.weights_desc(), engine, nullptr),
                  memory(pd.dst_desc(), engine, nullptr),
                  memory(pd.scratchpad_desc(), engine, nullptr),
                  {}};
    const auto bytes = static_cast<int64_t>(pd.scratchpad_desc().get_size());
    if (!scratchpad.defined() || scratchpad.num_bytes() < bytes) {
      scratchpad = Tensor();
      scratchpad = Tensor(DType::u8, {bytes});
    }
    made.arguments = {{DNNL_ARG_SRC, made.a},
                      {DNNL_ARG_WEIGHTS, made.b},
                      {DNNL_ARG_DST, made.c},
                      {DNNL_ARG_SCRATCHPAD, made.scratchpad}};
    return prepared.emplace(p, std::move(made)).first->second;
  }

  void run(const Product& p, const void* a, const void* b, float* c) {
    checked(p.m, p.n, p.k, [&] {
      Prepared& ready = get(p);
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

  void pack(Kind kind, const void* from, void* to) {
    const Product p = product(kind, kTileRows, kTileColumns, true);
    checked(p.m, p.n, p.k, [&] {
      memory out(packed(kind), engine, to);
      memory in(plain(p), engine, const_cast<void*>(from));
      packing[static_cast<size_t>(kind)].execute(stream, in, out);
      stream.wait();
      return 0;
    });
  }

  int64_t packed_bytes(Kind kind) {
    return (static_cast<int64_t>(packed(kind).get_size()) + 63) / 64 * 64;
  }
};

TileProducts::TileProducts(DType dtype, int64_t dim, int64_t dim_v)
    : impl_(std::make_unique<Impl>(dtype, dim, dim_v)) {}
TileProducts::~TileProducts() = default;
TileProducts::TileProducts(TileProducts&&) noexcept = default;

void TileProducts::scores(int64_t rows, int64_t columns, const void* q, const Operand& k,
                          float* scores) {
  impl_->run(impl_->product(Kind::scores, rows, columns, k.packed), q, k.data, scores);
}

void TileProducts::accumulate(int64_t rows, int64_t columns, const void* p, const Operand& v,
                              float* out) {
  impl_->run(impl_->product(Kind::accumulate, rows, columns, v.packed), p, v.data, out);
}

int64_t TileProducts::packed_key_bytes() {
  return impl_->packed_bytes(Kind::scores);
}
int64_t TileProducts::packed_value_bytes() {
  return impl_->packed_bytes(Kind::accumulate);
}
void TileProducts::pack_keys(const void* k, void* packed) {
  impl_->pack(Kind::scores, k, packed);
}
void TileProducts::pack_values(const void* v, void* packed) {
  impl_->pack(Kind::accumulate, v, packed);
}

bool has_bf16_products() {
  return ops::cpu_has_bf16_dot();
}

}  // namespace longhaul::attention::cpu
