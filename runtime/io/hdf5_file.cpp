#include "runtime/io/hdf5_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <utility>

#include "runtime/io/atomic_file.h"
#include "runtime/io/hdf5_internal.h"

namespace longhaul::io {
namespace hdf5 {

void enter() {
  static std::once_flag once;
  std::call_once(once, [] {
    H5open();
    H5PLset_loading_state(0);
  });
  // The thread-safe build of HDF5 keeps one error stack, and its printer, a thread.
  thread_local bool silent = false;
  if (!silent) H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  silent = true;
}

namespace {

extern "C" herr_t collect_description(unsigned, const H5E_error2_t* error, void* out) {
  if (error->desc != nullptr && error->desc[0] != '\0')
    static_cast<std::vector<std::string>*>(out)->emplace_back(error->desc);
  return 0;
}

// The outermost and the innermost line of the stack say what and why; those between repeat them.
std::string error_stack_text() {
  std::vector<std::string> lines;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, collect_description, &lines);
  H5Eclear2(H5E_DEFAULT);
  if (lines.empty()) return "HDF5 gives no reason";
  return lines.size() == 1 ? lines[0] : lines.front() + ": " + lines.back();
}

}  // namespace

void check_channel(const Hdf5FileState& file) {
  if (file.channel.write_error == 0) return;
  fail(ExitCode::resource, "cannot write {}: {} after {} bytes; the unfinished file is removed",
       file.shown, std::strerror(file.channel.write_error), file.channel.bytes_written);
}

void raise(const Hdf5FileState& file, std::string_view object, const char* call) {
  const std::string reason = error_stack_text();
  check_channel(file);
  const std::string text = fmt::format("{}{}{}: {} failed: {}", file.shown,
                                       object.empty() ? "" : ": ", object, call, reason);
  if (!file.channel.writable) fail(ExitCode::corrupt, "cannot read {}", text);
  throw Error(ExitCode::internal, "cannot write " + text, __FILE__, __LINE__);
}

void refuse(const Hdf5FileState& file, std::string_view object, const std::string& why) {
  fail(ExitCode::corrupt, "{}: {}: {}", file.shown, object, why);
}

Handle element_type(DType dtype, const Hdf5FileState& file) {
  auto copy = [&](hid_t type) {
    return Handle(check(H5Tcopy(type), file, "", "H5Tcopy"), H5Tclose);
  };
  // sign bit, exponent bits and place, mantissa bits; the size shrinks after the fields have.
  auto half = [&](size_t sign, size_t exponent_at, size_t exponent_bits, size_t mantissa_bits,
                  size_t bias) {
    Handle type = copy(H5T_IEEE_F32LE);
    check(H5Tset_fields(type.get(), sign, exponent_at, exponent_bits, 0, mantissa_bits), file, "",
          "H5Tset_fields");
    check(H5Tset_size(type.get(), 2), file, "", "H5Tset_size");
    check(H5Tset_ebias(type.get(), bias), file, "", "H5Tset_ebias");
    return type;
  };
  switch (dtype) {
    case DType::f64:
      return copy(H5T_IEEE_F64LE);
    case DType::f32:
      return copy(H5T_IEEE_F32LE);
    case DType::bf16:
      return half(15, 7, 8, 7, 127);
    case DType::f16:
      return half(15, 10, 5, 10, 15);
    case DType::i64:
      return copy(H5T_STD_I64LE);
    case DType::i32:
      return copy(H5T_STD_I32LE);
    case DType::u8:
      return copy(H5T_STD_U8LE);
  }
  LH_CHECK(false, "dtype {}", static_cast<int>(dtype));
  return copy(H5T_STD_U8LE);
}

}  // namespace hdf5

using hdf5::check;
using hdf5::Handle;

Hdf5FileState::~Hdf5FileState() {
  if (id >= 0) H5Fclose(id);
  if (channel.fd >= 0) ::close(channel.fd);
}

namespace {

Handle make_file_access(const Hdf5FileState& state, Hdf5Channel* channel) {
  Handle access(check(H5Pcreate(H5P_FILE_ACCESS), state, "", "H5Pcreate"), H5Pclose);
  check(set_hdf5_channel(access.get(), channel), state, "", "H5Pset_driver");
  check(H5Pset_libver_bounds(access.get(), H5F_LIBVER_V110, H5F_LIBVER_V110), state, "",
        "H5Pset_libver_bounds");
  return access;
}

Handle open_object(const Hdf5FileState& state, const std::string& path) {
  return Handle(check(H5Oopen(state.id, path.c_str(), H5P_DEFAULT), state, path, "H5Oopen"),
                H5Oclose);
}

}  // namespace

Hdf5File Hdf5File::create(const std::filesystem::path& path, const std::string& shown) {
  hdf5::enter();
  report_file_size_limit_as_error();
  auto state = std::make_shared<Hdf5FileState>();
  state->shown = shown;
  state->channel.path = path.string();
  state->channel.writable = true;
  state->channel.fd =
      ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
  if (state->channel.fd < 0)
    fail(ExitCode::resource, "cannot create {}: {}", path.string(), std::strerror(errno));
  const Handle access = make_file_access(*state, &state->channel);
  state->id = check(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get()), *state, "",
                    "H5Fcreate");
  return Hdf5File(std::move(state));
}

Hdf5File Hdf5File::open(const std::filesystem::path& path) {
  hdf5::enter();
  auto state = std::make_shared<Hdf5FileState>();
  state->shown = path.string();
  state->channel.path = path.string();
  state->channel.fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat info {};
  if (state->channel.fd < 0 || ::fstat(state->channel.fd, &info) != 0)
    fail(ExitCode::corrupt, "cannot read {}: {}", path.string(), std::strerror(errno));
  if (!S_ISREG(info.st_mode)) fail(ExitCode::corrupt, "{} is no regular file", path.string());
  state->channel.size = info.st_size;
  const Handle access = make_file_access(*state, &state->channel);
  state->id = check(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), *state, "", "H5Fopen");
  return Hdf5File(std::move(state));
}

Hdf5Object Hdf5File::root() {
  return open_group("/");
}

Hdf5Object Hdf5File::create_group(const std::string& path) {
  hdf5::enter();
  Handle links(check(H5Pcreate(H5P_LINK_CREATE), *state_, path, "H5Pcreate"), H5Pclose);
  check(H5Pset_create_intermediate_group(links.get(), 1), *state_, path,
        "H5Pset_create_intermediate_group");
  const hid_t id =
      check(H5Gcreate2(state_->id, path.c_str(), links.get(), H5P_DEFAULT, H5P_DEFAULT), *state_,
            path, "H5Gcreate");
  return Hdf5Object(id, state_, path);
}

bool Hdf5File::has(const std::string& path) {
  hdf5::enter();
  // Each part of the path in turn: HDF5 fails on a missing parent instead of answering no.
  size_t end = 0;
  while (end < path.size()) {
    end = path.find('/', end + 1);
    if (end == std::string::npos) end = path.size();
    const std::string part = path.substr(0, end);
    if (part.empty() || part == "/") continue;
    if (check(H5Lexists(state_->id, part.c_str(), H5P_DEFAULT), *state_, part, "H5Lexists") == 0)
      return false;
    H5L_info_t info;
    check(H5Lget_info(state_->id, part.c_str(), &info, H5P_DEFAULT), *state_, part, "H5Lget_info");
    if (info.type != H5L_TYPE_HARD)
      hdf5::refuse(*state_, part, "a soft or external link, which is not followed");
  }
  return true;
}

bool Hdf5File::is_group(const std::string& path) {
  if (path != "/" && !has(path)) return false;
  const Handle object = open_object(*state_, path);
  return H5Iget_type(object.get()) == H5I_GROUP;
}

Hdf5Object Hdf5File::open_group(const std::string& path) {
  if (!is_group(path)) hdf5::refuse(*state_, path, "there is no such group");
  return Hdf5Object(open_object(*state_, path).release(), state_, path);
}

namespace {
extern "C" herr_t collect_name(hid_t, const char* name, const H5L_info_t*, void* out) {
  static_cast<std::vector<std::string>*>(out)->emplace_back(name);
  return 0;
}
}  // namespace

std::vector<std::string> Hdf5File::list(const std::string& group) {
  if (!is_group(group)) hdf5::refuse(*state_, group, "there is no such group");
  const Handle object = open_object(*state_, group);
  std::vector<std::string> names;
  check(H5Literate(object.get(), H5_INDEX_NAME, H5_ITER_INC, nullptr, collect_name, &names),
        *state_, group, "H5Literate");
  return names;
}

int64_t Hdf5File::bytes_written() const {
  return state_->channel.bytes_written;
}

namespace {

// In pieces, so that a slow disk can be told from a hang; fsync then has little left to do.
void sync_channel(Hdf5Channel& channel, Progress* progress) {
  constexpr int64_t kPiece = int64_t{64} << 20;
  for (int64_t at = 0; at < channel.size && progress != nullptr; at += kPiece) {
    if (::sync_file_range(
            channel.fd, at, kPiece,
            SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER) != 0)
      break;  // not every file system has it
    progress->tick();
  }
  if (::fsync(channel.fd) != 0) channel.write_error = errno;
}

}  // namespace

void Hdf5File::close(Progress* progress) {
  hdf5::enter();
  LH_CHECK(state_.use_count() == 1, "{} objects of {} are open", state_.use_count() - 1,
           state_->shown);
  Hdf5FileState& state = *state_;
  check(H5Fclose(std::exchange(state.id, -1)), state, "", "H5Fclose");
  Hdf5Channel& channel = state.channel;
  // Network file systems may report a full disk only at fsync or close.
  if (channel.writable && channel.write_error == 0) sync_channel(channel, progress);
  if (::close(std::exchange(channel.fd, -1)) != 0 && channel.writable && channel.write_error == 0)
    channel.write_error = errno;
  hdf5::check_channel(state);
  state_.reset();
}

std::string hdf5_library_version() {
  unsigned major = 0, minor = 0, release = 0;
  if (H5get_libversion(&major, &minor, &release) < 0) return "unknown";
  return fmt::format("{}.{}.{}", major, minor, release);
}

}  // namespace longhaul::io
