// Reading good files: values, shapes, spellings, release, and what changes under an open
// checkpoint.

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <string>

#include "runtime/io/checkpoint.h"
#include "runtime/io/safetensors_header.h"
#include "tests/unit/checkpoint/checkpoint_files.h"

namespace longhaul::test {
namespace {

std::string floats(std::initializer_list<float> values) {
  std::string bytes(values.size() * sizeof(float), '\0');
  std::memcpy(bytes.data(), std::data(values), bytes.size());
  return bytes;
}

void write_model(const TemporaryFolder& dir, const std::string& json, const std::string& data) {
  write_bytes(dir / "model.safetensors", safetensors_bytes(json, data));
}

const std::string kTwo = R"({"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
                         R"("x":{"dtype":"F32","shape":[1],"data_offsets":[16,20]}}  )";

TEST(Safetensors, GivesValuesAndRemembersWhatWasAskedFor) {
  const TemporaryFolder dir;
  write_model(dir, kTwo, floats({1, 2, 3, 4, 5}));
  const auto checkpoint = io::open_safetensors(dir.path());
  EXPECT_TRUE(checkpoint->has("w"));
  EXPECT_FALSE(checkpoint->has("y"));
  EXPECT_EQ(checkpoint->unused(), (std::vector<std::string>{"w", "x"}));
  const ConstTensorView w = checkpoint->tensor("w", {2, 2});
  EXPECT_EQ(w.as<float>()[3], 4.0F);
  EXPECT_EQ(checkpoint->unused(), std::vector<std::string>{"x"});
  EXPECT_EQ(checkpoint->total_bytes(), 20);
  EXPECT_EQ(checkpoint->dtype_of("w"), DType::f32);
  checkpoint->release("w");
  EXPECT_EQ(checkpoint->tensor("w", {2, 2}).as<float>()[0], 1.0F);
}

TEST(Safetensors, MissingAndMisshapenTensorsSayNameAndShapes) {
  const TemporaryFolder dir;
  write_model(dir, kTwo, floats({1, 2, 3, 4, 5}));
  const auto checkpoint = io::open_safetensors(dir.path());
  expect_refused(
      [&] {
        (void)checkpoint->tensor("y", {7, 3});
      },
      ExitCode::mismatch, {dir.path().string(), "'y' is missing", "[7, 3]"}, "missing");
  for (const Shape& shape : {Shape{2, 3}, Shape{4}, Shape{2, 2, 1}, Shape{}, Shape{4, 1}})
    expect_refused([&] { (void)checkpoint->tensor("w", shape); }, ExitCode::mismatch,
                   {"model.safetensors", "'w' has shape [2, 2]", shape.to_string()}, "misshapen");
  EXPECT_EQ(checkpoint->unused().size(), 2U);  // refusals use nothing
}

TEST(Safetensors, DtypesThatNoWeightHasAreRefusedWhenAskedFor) {
  const TemporaryFolder dir;
  write_model(dir,
              R"({"w":{"dtype":"I8","shape":[4],"data_offsets":[0,4]},
                  "f":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[4,8]},
                  "q":{"dtype":"F4","shape":[4],"data_offsets":[8,10]}})",
              std::string(10, 'x'));
  const auto checkpoint = io::open_safetensors(dir.path());
  EXPECT_EQ(checkpoint->list().size(), 3U);
  expect_refused([&] { (void)checkpoint->tensor("w", {4}); }, ExitCode::corrupt,
                 {"'w' is of dtype I8"}, "I8");
  expect_refused([&] { (void)checkpoint->tensor("f", {4}); }, ExitCode::corrupt, {"F8_E4M3"}, "F8");
}

TEST(Safetensors, UnpaddedHeadersGiveAlignedTensors) {
  for (size_t spaces = 0; spaces < 9; ++spaces) {
    const TemporaryFolder dir;
    write_model(dir, kTwo + std::string(spaces, ' '), floats({1, 2, 3, 4, 5}));
    const auto checkpoint = io::open_safetensors(dir.path());
    const ConstTensorView w = checkpoint->tensor("w", {2, 2});
    EXPECT_EQ(reinterpret_cast<uintptr_t>(w.data) % 4, 0U);
    EXPECT_EQ(w.as<float>()[2], 3.0F);
    checkpoint->release("w");
    EXPECT_EQ(checkpoint->tensor("w", {2, 2}).as<float>()[1], 2.0F);
  }
}

TEST(Safetensors, ScalarsEmptyTensorsAndFiveDimensionsAreRead) {
  const TemporaryFolder dir;
  write_model(dir,
              R"({"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
                  "e":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]},
                  "m":{"dtype":"BF16","shape":[1,1,1,1,2],"data_offsets":[4,8]}})",
              floats({9, 0}));
  const auto checkpoint = io::open_safetensors(dir.path());
  EXPECT_EQ(*checkpoint->tensor("s", {}).as<float>(), 9.0F);
  EXPECT_EQ(checkpoint->tensor("e", {0, 7}).num_bytes(), 0);
  checkpoint->release("e");
  expect_refused(
      [&] {
        (void)checkpoint->tensor("m", {1, 1, 1, 2});
      },
      ExitCode::mismatch, {"[1, 1, 1, 1, 2]"}, "five dimensions");
}

// A file that shrinks under its mapping would kill the process at the next touch.
TEST(Safetensors, AFileCutShortWhileOpenIsRefused) {
  const TemporaryFolder dir;
  write_model(dir, kTwo, floats({1, 2, 3, 4, 5}));
  const auto checkpoint = io::open_safetensors(dir.path());
  (void)checkpoint->tensor("w", {2, 2});
  std::filesystem::resize_file(dir / "model.safetensors", 100);
  expect_refused(
      [&] {
        (void)checkpoint->tensor("w", {2, 2});
      },
      ExitCode::corrupt, {"model.safetensors", "has 100 now"}, "cut");
}

// Writers that rename leave the mapped file alone.
TEST(Safetensors, AFileReplacedByRenameStaysReadable) {
  const TemporaryFolder dir;
  write_model(dir, kTwo, floats({1, 2, 3, 4, 5}));
  const auto checkpoint = io::open_safetensors(dir.path());
  write_bytes(dir / "other", "short");
  std::filesystem::rename(dir / "other", dir / "model.safetensors");
  EXPECT_EQ(checkpoint->tensor("x", {1}).as<float>()[0], 5.0F);
}

TEST(Safetensors, SymbolicLinksAreFollowed) {
  const TemporaryFolder cache, dir;
  write_bytes(cache / "blob", safetensors_bytes(kTwo, floats({1, 2, 3, 4, 5})));
  std::filesystem::create_symlink(cache / "blob", dir / "model.safetensors");
  EXPECT_TRUE(io::open_safetensors(dir.path())->has("w"));
}

// Names as a bare decoder saves them.
TEST(Safetensors, AMissingModelPrefixIsSupplied) {
  const TemporaryFolder dir;
  write_model(dir,
              R"({"embed_tokens.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                  "layers.0.mlp.up_proj.weight":{"dtype":"F32","shape":[1],"data_offsets":[8,12]},
                  "lm_head.weight":{"dtype":"F32","shape":[2],"data_offsets":[12,20]}})",
              floats({1, 2, 3, 4, 5}));
  const auto checkpoint = io::open_safetensors(dir.path());
  EXPECT_EQ(checkpoint->tensor("model.embed_tokens.weight", {2}).as<float>()[1], 2.0F);
  EXPECT_EQ(checkpoint->tensor("model.layers.0.mlp.up_proj.weight", {1}).as<float>()[0], 3.0F);
  EXPECT_EQ(checkpoint->tensor("lm_head.weight", {2}).as<float>()[0], 4.0F);
  EXPECT_TRUE(checkpoint->unused().empty());
}

// Two experts of I = 1, H = 2: gate_up [2, 2, 2], down [2, 2, 1].
TEST(Safetensors, StackedExpertsAreReadOneByOne) {
  const TemporaryFolder dir;
  const std::string p = "model.layers.3.mlp.experts.";
  write_model(dir,
              "{\"" + p +
                  R"(gate_up_proj":{"dtype":"F32","shape":[2,2,2],"data_offsets":[0,32]},")" + p +
                  R"(down_proj":{"dtype":"F32","shape":[2,2,1],"data_offsets":[32,48]}})",
              floats({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
  const auto checkpoint = io::open_safetensors(dir.path());
  const auto first = [&](const std::string& name, const Shape& shape) {
    const float value = checkpoint->tensor(p + name, shape).as<float>()[0];
    checkpoint->release(p + name);
    return value;
  };
  EXPECT_EQ(first("0.gate_proj.weight", {1, 2}), 0);
  EXPECT_EQ(first("0.up_proj.weight", {1, 2}), 2);
  EXPECT_EQ(first("1.gate_proj.weight", {1, 2}), 4);
  EXPECT_EQ(first("1.up_proj.weight", {1, 2}), 6);
  EXPECT_EQ(checkpoint->unused(), std::vector<std::string>{p + "down_proj"});
  EXPECT_EQ(first("0.down_proj.weight", {2, 1}), 8);
  EXPECT_EQ(first("1.down_proj.weight", {2, 1}), 10);
  EXPECT_TRUE(checkpoint->unused().empty());
  for (const char* name : {"2.gate_proj.weight", "-1.gate_proj.weight", "0.gate_up_proj.weight",
                           "0.gate_proj.bias", "00000000000000000000000000009.up_proj.weight",
                           "0.weight", "0..weight", ".gate_proj.weight", "x.gate_proj.weight"})
    EXPECT_FALSE(checkpoint->has(p + name)) << name;
  // Transposed stacks, as some other families have them, show in the shapes.
  expect_refused(
      [&] {
        (void)checkpoint->tensor(p + "0.gate_proj.weight", {2, 1});
      },
      ExitCode::mismatch, {"[1, 2]", "[2, 1]"}, "transposed");
}

TEST(Safetensors, FingerprintsTellHeadersAndNamesApart) {
  const TemporaryFolder a, b, c;
  write_model(a, kTwo, floats({1, 2, 3, 4, 5}));
  write_model(b, kTwo, floats({1, 2, 3, 4, 5}));
  std::string other = kTwo;
  other[2] = 'v';
  write_model(c, other, floats({1, 2, 3, 4, 5}));
  const auto print = [](const TemporaryFolder& dir) {
    return io::open_safetensors(dir.path())->fingerprint();
  };
  EXPECT_EQ(print(a), print(b));
  EXPECT_NE(print(a), print(c));
}

TEST(Safetensors, EveryDtypeHasItsSize) {
  EXPECT_EQ(io::safetensors_dtype_bits("C64"), 64);
  EXPECT_EQ(io::safetensors_dtype_bits("F6_E3M2"), 6);
  EXPECT_FALSE(io::safetensors_dtype_bits("BF17").has_value());
  for (DType dtype : {DType::bf16, DType::f16, DType::f32, DType::f64}) {
    EXPECT_EQ(io::weight_dtype(io::safetensors_dtype_name(dtype)), dtype);
    EXPECT_EQ(io::safetensors_dtype_bits(io::safetensors_dtype_name(dtype)), 8 * dtype_size(dtype));
  }
  EXPECT_FALSE(io::weight_dtype("I64").has_value());
}

}  // namespace
}  // namespace longhaul::test
