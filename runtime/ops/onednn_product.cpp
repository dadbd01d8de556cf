#include "runtime/ops/onednn_product.h"

#include <dnnl.hpp>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <unordered_map>

#include "runtime/core/check.h"
#include "runtime/ops/thread_scratch.h"

namespace longhaul::ops::onednn {
namespace {

using dnnl::memory;

// Row count for which the packed format is chosen; the format serves every other row count too.
constexpr int64_t kPackingRows = 64;

const dnnl::engine& engine() {
  static const auto* e = new dnnl::engine(dnnl::engine::kind::cpu, 0);  // outlives thread exits
  return *e;
}

dnnl::stream& thread_stream() {
  static thread_local dnnl::stream stream(engine());
  return stream;
}

memory::data_type library_type(DType type) {
  LH_CHECK(type == DType::f32 || type == DType::bf16, "{}", dtype_name(type));
  return type == DType::f32 ? memory::data_type::f32 : memory::data_type::bf16;
}

// Runs f and turns the library's exceptions into ours.
template <class F>
decltype(auto) guarded(const char* what, F&& f) {
  try {
    keep_libraries_single_threaded();
    return f();
  } catch (const dnnl::error& e) {
    if (e.status == dnnl_out_of_memory)
      fail(ExitCode::resource, "out of memory in the matrix library while {}", what);
    throw Error(
        ExitCode::internal,
        fmt::format("oneDNN: {} (status {}) while {}", e.what(), static_cast<int>(e.status), what),
        __FILE__, __LINE__);
  }
}

dnnl::matmul::primitive_desc describe(const ProductShape& s, const memory::desc& weights) {
  const memory::desc src({s.rows, s.in}, library_type(s.type), memory::format_tag::ab);
  const memory::desc dst({s.rows, s.out}, library_type(s.out_type), memory::format_tag::ab);
  const memory::desc bias =
      s.bias ? memory::desc({1, s.out}, memory::data_type::f32, memory::format_tag::ab)
             : memory::desc();
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
#if DNNL_VERSION_MAJOR >= 3
  return s.bias ? dnnl::matmul::primitive_desc(engine(), src, weights, bias, dst, attributes)
                : dnnl::matmul::primitive_desc(engine(), src, weights, dst, attributes);
#else
  return dnnl::matmul::primitive_desc(
      s.bias ? dnnl::matmul::desc(src, weights, bias, dst) : dnnl::matmul::desc(src, weights, dst),
      attributes, engine());
#endif
}

struct Packing {
  memory::desc plain, packed;
  dnnl::reorder reorder;

  Packing(int64_t in, int64_t out, DType type)
      // Our rows are the product's columns: W [out, in] read as its transpose.
      : plain({in, out}, library_type(type), memory::dims{1, in}),
        packed(describe({kPackingRows, in, out, type, type, false},
                        memory::desc({in, out}, library_type(type), memory::format_tag::any))
                   .weights_desc()),
        reorder(dnnl::reorder::primitive_desc(engine(), plain, engine(), packed)) {}
};

// Everything that was compiled. Ranks that are threads of one process share it, under the lock.
// Shapes are few: a handful of row counts for each kind of layer.
struct Table {
  std::mutex mutex;
  std::map<std::tuple<int64_t, int64_t, DType>, std::shared_ptr<const Packing>> packings;
  std::map<ProductShape, std::shared_ptr<const Product>> products;

  std::shared_ptr<const Packing> packing(int64_t in, int64_t out, DType type) {
    std::shared_ptr<const Packing>& found = packings[{in, out, type}];
    if (found == nullptr) found = std::make_shared<const Packing>(in, out, type);
    return found;
  }
};

Table& table() {
  static auto* t = new Table;
  return *t;
}

std::shared_ptr<const Packing> find_packing(int64_t in, int64_t out, DType type) {
  return guarded("choosing a weight format", [&] {
    std::lock_guard lock(table().mutex);
    return table().packing(in, out, type);
  });
}

}  // namespace

struct Product {
  dnnl::matmul matmul;
  memory::desc src, weights, bias, dst, scratchpad;
  std::string name;

  Product(const dnnl::matmul::primitive_desc& pd, bool has_bias)
      : matmul(pd),
        src(pd.src_desc()),
        weights(pd.weights_desc()),
        bias(has_bias ? pd.bias_desc() : memory::desc()),
        dst(pd.dst_desc()),
        scratchpad(pd.scratchpad_desc()),
        name(pd.impl_info_str()) {}
};

std::shared_ptr<const Product> find_product(const ProductShape& shape) {
  return guarded("compiling a matrix product", [&] {
    std::lock_guard lock(table().mutex);
    std::shared_ptr<const Product>& found = table().products[shape];
    if (found == nullptr)
      found = std::make_shared<const Product>(
          describe(shape, table().packing(shape.in, shape.out, shape.type)->packed), shape.bias);
    return found;
  });
}

int64_t packed_bytes(int64_t in, int64_t out, DType type) {
  return static_cast<int64_t>(find_packing(in, out, type)->packed.get_size());
}

void pack(const void* weight, int64_t in, int64_t out, DType type, void* packed) {
  const std::shared_ptr<const Packing> packing = find_packing(in, out, type);
  guarded("packing weights", [&] {
    memory from(packing->plain, engine(), const_cast<void*>(weight));
    memory to(packing->packed, engine(), packed);
    packing->reorder.execute(thread_stream(), from, to);
    thread_stream().wait();
  });
}

void run(const Product& p, const void* src, const void* packed, const float* bias, void* dst) {
  guarded("multiplying matrices", [&] {
    const auto held = [](const memory::desc& desc, const void* data) {
      return memory(desc, engine(), const_cast<void*>(data));
    };
    std::unordered_map<int, memory> arguments{{DNNL_ARG_SRC, held(p.src, src)},
                                              {DNNL_ARG_WEIGHTS, held(p.weights, packed)},
                                              {DNNL_ARG_DST, held(p.dst, dst)}};
    if (bias != nullptr) arguments.emplace(DNNL_ARG_BIAS, held(p.bias, bias));
    const auto scratch_bytes = static_cast<int64_t>(p.scratchpad.get_size());
    if (scratch_bytes > 0)
      arguments.emplace(DNNL_ARG_SCRATCHPAD,
                        held(p.scratchpad, thread_scratch(ScratchSlot::library, scratch_bytes)));
    p.matmul.execute(thread_stream(), arguments);
    thread_stream().wait();
  });
}

const char* kernel_name(const Product& product) {
  return product.name.c_str();
}

bool has_bf16_dot() {
  // Instruction sets are bit masks that contain those they build on.
  const auto effective = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  const auto wanted = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
  return (effective & wanted) == wanted;
}

}  // namespace longhaul::ops::onednn
