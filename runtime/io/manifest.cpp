#include "runtime/io/manifest.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "runtime/core/log.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/dump_digest.h"

namespace longhaul::io {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "longhaul-dump";
constexpr int kFormatVersion = 1;
constexpr int64_t kMaxManifestBytes = int64_t{256} << 20;
constexpr int64_t kMaxTokens = int64_t{1} << 48;
constexpr int64_t kMaxTensorBytes = int64_t{1} << 56;

// Text from outside (a command line, a path) may be no UTF-8; it is replaced, never an error.
std::string to_text(const json& value, int indent) {
  return value.dump(indent, ' ', false, json::error_handler_t::replace);
}

json part_to_json(const DumpTensor& tensor) {
  json parts = json::array();
  for (const DumpTensor::Part& part : tensor.parts)
    parts.push_back({{"rank", part.rank}, {"rows", part.rows}, {"xxh3", part.xxh3}});
  json shape = json::array();
  for (const int64_t d : tensor.shape.dims()) shape.push_back(d);
  return {{"name", tensor.name},
          {"dtype", std::string(dtype_name(tensor.dtype))},
          {"shape", shape},
          {"dims", tensor.dims},
          {"ranks", std::move(parts)}};
}

json file_to_json(const DumpRankFile& file) {
  return {{"rank", file.rank},   {"file", file.file}, {"host", file.host},
          {"bytes", file.bytes}, {"rows", file.rows}, {"xxh3", file.xxh3}};
}

json sequences_to_json(const std::vector<DumpSequence>& sequences) {
  json list = json::array();
  for (const DumpSequence& s : sequences)
    list.push_back({{"first_position", s.first_position}, {"num_tokens", s.num_tokens}});
  return list;
}

json tensors_to_json(const std::vector<DumpTensor>& tensors) {
  json list = json::array();
  for (const DumpTensor& t : tensors) list.push_back(part_to_json(t));
  return list;
}

json info_to_json(const DumpInfo& info) {
  json prompts = json::array();
  for (const DumpPrompt& p : info.prompts)
    prompts.push_back({{"id", p.id}, {"num_tokens", p.num_tokens}});
  json config = json::parse(info.config_json, nullptr, false);
  if (config.is_discarded()) config = info.config_json;
  const layout::ProcessGrid& g = info.grid;
  return {{"version", info.version},
          {"model", {{"name", info.model}, {"config", std::move(config)}}},
          {"grid",
           {{"world", g.world_size()},
            {"dp", g.dp},
            {"cp", g.cp},
            {"ulysses", g.ulysses},
            {"tp", g.tp}}},
          {"layout", info.layout},
          {"strategy", info.strategy},
          {"backend", info.backend},
          {"dtype", info.dtype},
          {"command", info.command},
          {"prompts", std::move(prompts)}};
}

// ---- reading; anything odd throws a json exception or Error(corrupt) ----

void require(bool condition, const std::string& what) {
  if (!condition) fail(ExitCode::corrupt, "{}", what);
}

int64_t get_count(const json& object, const char* key) {
  const json& value = object.at(key);
  require(value.is_number_integer() || value.is_number_unsigned(),
          fmt::format("'{}' is no whole number", key));
  require(!value.is_number_unsigned() || value.get<uint64_t>() < (uint64_t{1} << 62),
          fmt::format("'{}' is too large", key));
  const auto count = value.get<int64_t>();
  require(count >= 0, fmt::format("'{}' is negative", key));
  return count;
}

int get_small(const json& object, const char* key) {
  const int64_t value = get_count(object, key);
  require(value < (int64_t{1} << 30), fmt::format("'{}' is too large", key));
  return static_cast<int>(value);
}

std::string get_digest(const json& object) {
  std::string digest = object.at("xxh3").get<std::string>();
  require(digest.size() == 16 && digest.find_first_not_of("0123456789abcdef") == std::string::npos,
          "'xxh3' is no digest");
  return digest;
}

Shape get_shape(const json& object) {
  const auto dims = object.at("shape").get<std::vector<json>>();
  require(!dims.empty() && dims.size() <= Shape::kMaxRank,
          fmt::format("a shape of {} dimensions", dims.size()));
  std::vector<int64_t> out;
  int64_t elements = 1;
  for (const json& d : dims) {
    const int64_t n = get_count(json{{"shape", d}}, "shape");
    require((n > 0 || out.empty()) && (n == 0 || elements <= kMaxTensorBytes / 8 / n),
            "a shape that cannot be");
    elements *= std::max<int64_t>(n, 1);
    out.push_back(n);
  }
  return Shape(std::span<const int64_t>(out));
}

DType get_dtype(const json& object) {
  const auto name = object.at("dtype").get<std::string>();
  for (const DType d :
       {DType::f64, DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32, DType::u8})
    if (dtype_name(d) == name) return d;
  fail(ExitCode::corrupt, "'dtype' is none of ours");
}

DumpTensor get_tensor(const json& object) {
  DumpTensor tensor;
  tensor.name = object.at("name").get<std::string>();
  require(is_tensor_name(tensor.name), "a tensor's name has odd characters");
  tensor.dtype = get_dtype(object);
  tensor.shape = get_shape(object);
  tensor.dims = object.at("dims").get<std::string>();
  int64_t rows = 0;
  for (const json& p : object.at("ranks")) {
    tensor.parts.push_back({get_small(p, "rank"), get_count(p, "rows"), get_digest(p)});
    const size_t n = tensor.parts.size();
    require(n == 1 || tensor.parts[n - 2].rank < tensor.parts[n - 1].rank,
            "tensor " + tensor.name + " lists its ranks out of order");
    require(tensor.parts.back().rows <= tensor.shape[0] - rows,
            "tensor " + tensor.name + " has more rows than its shape says");
    rows += tensor.parts.back().rows;
  }
  require(rows == tensor.shape[0], "tensor " + tensor.name + " has fewer rows than its shape says");
  return tensor;
}

DumpRankFile get_file(const json& object) {
  DumpRankFile file;
  file.rank = get_small(object, "rank");
  file.file = object.at("file").get<std::string>();
  require(file.file == rank_file_name(file.rank), "a rank file has another name than its rank");
  file.host = object.at("host").get<std::string>();
  file.bytes = get_count(object, "bytes");
  file.rows = get_count(object, "rows");
  file.xxh3 = get_digest(object);
  return file;
}

std::vector<DumpSequence> get_sequences(const json& list) {
  std::vector<DumpSequence> sequences;
  int64_t total = 0;
  for (const json& s : list) {
    sequences.push_back({get_count(s, "first_position"), get_count(s, "num_tokens")});
    const DumpSequence& last = sequences.back();
    require(last.first_position <= kMaxTokens && last.num_tokens <= kMaxTokens - total,
            "more tokens than there can be");
    total += last.num_tokens;
  }
  return sequences;
}

DumpInfo get_info(const json& object) {
  DumpInfo info;
  info.version = object.at("version").get<std::string>();
  info.model = object.at("model").at("name").get<std::string>();
  const json& config = object.at("model").at("config");
  info.config_json = config.is_string() ? config.get<std::string>() : to_text(config, -1);
  const json& grid = object.at("grid");
  info.grid.dp = get_small(grid, "dp");
  info.grid.cp = get_small(grid, "cp");
  info.grid.ulysses = get_small(grid, "ulysses");
  info.grid.tp = get_small(grid, "tp");
  info.layout = object.at("layout").get<std::string>();
  info.strategy = object.at("strategy").get<std::string>();
  info.backend = object.at("backend").get<std::string>();
  info.dtype = object.at("dtype").get<std::string>();
  info.command = object.at("command").get<std::string>();
  for (const json& p : object.at("prompts"))
    info.prompts.push_back({p.at("id").get<std::string>(), get_count(p, "num_tokens")});
  return info;
}

RankPart parse_rank_part(const std::string& text) {
  const json object = json::parse(text);
  RankPart part;
  part.file = get_file(object.at("file"));
  part.world_size = get_small(object, "world_size");
  part.num_steps = get_count(object, "num_steps");
  part.sequences = get_sequences(object.at("sequences"));
  for (const json& t : object.at("tensors")) part.tensors.push_back(get_tensor(t));
  return part;
}

// The tensors of all ranks, in the order of a rank that has them all; every rank computes in the
// same order, and one without tokens may lack some.
std::vector<DumpTensor> join_tensors(const std::vector<RankPart>& parts, int64_t num_tokens) {
  const auto fullest = std::max_element(
      parts.begin(), parts.end(),
      [](const RankPart& a, const RankPart& b) { return a.tensors.size() < b.tensors.size(); });
  std::vector<DumpTensor> tensors;
  std::map<std::string, size_t> place;
  for (const DumpTensor& t : fullest->tensors) {
    place.emplace(t.name, tensors.size());
    tensors.push_back(t);
    tensors.back().parts.clear();
  }
  std::vector<int64_t> rows(tensors.size(), 0);
  for (const RankPart& part : parts) {
    for (const DumpTensor& t : part.tensors) {
      const auto found = place.find(t.name);
      LH_CHECK(found != place.end(), "rank {} wrote {}, rank {} did not", part.file.rank, t.name,
               fullest->file.rank);
      DumpTensor& whole = tensors[found->second];
      LH_CHECK(t.dtype == whole.dtype && t.dims == whole.dims &&
                   t.shape.dims().size() == whole.shape.dims().size() &&
                   std::equal(t.shape.dims().begin() + 1, t.shape.dims().end(),
                              whole.shape.dims().begin() + 1),
               "{}: {} {} {} on rank {}, {} {} {} on rank {}", t.name, dtype_name(t.dtype),
               t.shape.to_string(), t.dims, part.file.rank, dtype_name(whole.dtype),
               whole.shape.to_string(), whole.dims, fullest->file.rank);
      whole.parts.push_back(t.parts.at(0));
      rows[found->second] += t.shape[0];
    }
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    LH_CHECK(rows[i] == num_tokens, "{} has {} rows of {} tokens", tensors[i].name, rows[i],
             num_tokens);
    std::vector<int64_t> dims(tensors[i].shape.dims().begin(), tensors[i].shape.dims().end());
    dims[0] = num_tokens;
    tensors[i].shape = Shape(std::span<const int64_t>(dims));
  }
  return tensors;
}

}  // namespace

std::string rank_file_name(int rank) {
  return fmt::format("rank_{:04}.h5", rank);
}

bool is_tensor_name(std::string_view name) {
  constexpr std::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
  return !name.empty() && name.size() <= 255 && name[0] != '.' &&
         name.find_first_not_of(kAllowed) == std::string_view::npos;
}

int64_t Manifest::num_tokens() const {
  int64_t total = 0;
  for (const DumpSequence& s : sequences) total += s.num_tokens;
  return total;
}

std::string to_json(const RankPart& part) {
  return to_text({{"file", file_to_json(part.file)},
                  {"world_size", part.world_size},
                  {"num_steps", part.num_steps},
                  {"sequences", sequences_to_json(part.sequences)},
                  {"tensors", tensors_to_json(part.tensors)}},
                 -1);
}

void finalize_manifest(const std::filesystem::path& dir, const DumpInfo& info,
                       const std::vector<std::string>& filters,
                       std::span<const std::string> rank_parts) {
  std::vector<RankPart> parts;
  for (const std::string& text : rank_parts) {
    try {
      parts.push_back(parse_rank_part(text));
    } catch (const std::exception& e) {
      LH_CHECK(false, "part {} of the manifest: {}", parts.size(), e.what());
    }
  }
  LH_CHECK(!parts.empty());
  std::sort(parts.begin(), parts.end(),
            [](const RankPart& a, const RankPart& b) { return a.file.rank < b.file.rank; });
  Manifest manifest;
  manifest.sequences = parts[0].sequences;
  int64_t rows = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const RankPart& p = parts[i];
    LH_CHECK(p.file.rank == static_cast<int>(i) && p.world_size == static_cast<int>(parts.size()),
             "part {} of {} is of rank {} of {}", i, parts.size(), p.file.rank, p.world_size);
    LH_CHECK(p.sequences == parts[0].sequences && p.num_steps == parts[0].num_steps,
             "ranks 0 and {} saw different sequences or steps", i);
    manifest.files.push_back(p.file);
    rows += p.file.rows;
  }
  LH_CHECK(rows == manifest.num_tokens(), "{} rows for {} tokens", rows, manifest.num_tokens());
  manifest.tensors = join_tensors(parts, manifest.num_tokens());

  if (manifest.tensors.empty() && !filters.empty())
    spdlog::warn("the dump {} is empty: no tensor's name matches --dump-filter '{}'", dir.string(),
                 fmt::join(filters, "' '"));

  json object = info_to_json(info);
  object["format"] = kFormat;
  object["format_version"] = kFormatVersion;
  object["filters"] = filters;
  object["num_steps"] = parts[0].num_steps;
  object["num_tokens"] = manifest.num_tokens();
  object["sequences"] = sequences_to_json(manifest.sequences);
  object["tensors"] = tensors_to_json(manifest.tensors);
  object["files"] = json::array();
  for (const DumpRankFile& f : manifest.files) object["files"].push_back(file_to_json(f));
  // Parsed once more, so that what is digested is what a reader gets to see.
  object = json::parse(to_text(object, 1));
  object["xxh3"] = digest_of(to_text(object, 1));
  write_file_atomically(dir / "manifest.json", to_text(object, 1) + "\n", false);
}

Manifest read_manifest(const std::filesystem::path& dir) {
  const std::filesystem::path path = dir / "manifest.json";
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored))
    fail(ExitCode::mismatch, "{} has no manifest.json: it is no dump, or one never finished",
         dir.string());
  const std::string text = read_small_file(path, kMaxManifestBytes);
  Manifest manifest;
  try {
    json object = json::parse(text);
    require(object.is_object() && object.at("format") == kFormat, "it is no manifest of longhaul");
    require(object.at("format_version") == kFormatVersion,
            fmt::format("its format version is not {}", kFormatVersion));
    const std::string digest = get_digest(object);
    object.erase("xxh3");
    require(digest_of(to_text(object, 1)) == digest, "it was changed after it was written");
    manifest.info = get_info(object);
    manifest.filters = object.at("filters").get<std::vector<std::string>>();
    manifest.num_steps = get_count(object, "num_steps");
    manifest.sequences = get_sequences(object.at("sequences"));
    for (const json& f : object.at("files")) {
      manifest.files.push_back(get_file(f));
      require(manifest.files.back().rank + 1 == static_cast<int>(manifest.files.size()),
              "its rank files are not in order");
    }
    require(manifest.files.size() == static_cast<size_t>(get_count(object.at("grid"), "world")),
            "it lists fewer or more files than ranks");
    std::set<std::string> names;
    for (const json& t : object.at("tensors")) {
      manifest.tensors.push_back(get_tensor(t));
      const DumpTensor& tensor = manifest.tensors.back();
      require(names.insert(tensor.name).second, "tensor " + tensor.name + " is there twice");
      require(tensor.parts.empty() ||
                  tensor.parts.back().rank < static_cast<int>(manifest.files.size()),
              "tensor " + tensor.name + " is on a rank that does not exist");
    }
  } catch (const json::exception& e) {
    fail(ExitCode::corrupt, "{}: {}", path.string(), e.what());
  } catch (const Error& e) {
    fail(e.code(), "{}: {}", path.string(), e.what());
  }
  return manifest;
}

}  // namespace longhaul::io
