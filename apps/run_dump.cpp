#include "apps/run_dump.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "runtime/io/glob.h"

namespace longhaul::apps {
namespace {

// Texts of all ranks, in rank order, on every rank.
std::vector<std::string> gather_texts(comm::Communicator& comm, const std::string& own) {
  const auto n = static_cast<size_t>(comm.size());
  const auto size = static_cast<int64_t>(own.size());
  std::vector<int64_t> sizes(n);
  const std::vector<int64_t> eight(n, sizeof(int64_t));
  comm.all_gather_v(&size, sizeof size, sizes.data(), eight, {"gather sizes"});
  int64_t total = 0;
  for (int64_t s : sizes) total += s;
  std::string all(static_cast<size_t>(total), '\0');
  comm.all_gather_v(own.data(), size, all.data(), sizes, {"gather texts"});
  std::vector<std::string> texts;
  size_t at = 0;
  for (int64_t s : sizes) {
    texts.push_back(all.substr(at, static_cast<size_t>(s)));
    at += static_cast<size_t>(s);
  }
  return texts;
}

// Held until the run ends. File systems without locks go without.
int lock_folder(const std::filesystem::path& dir) {
  std::error_code ignored;
  std::filesystem::create_directories(dir, ignored);
  const int folder = ::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0)
    fail(ExitCode::usage, "cannot open the folder {} for a dump: {}", dir.string(),
         std::strerror(errno));
  if (::flock(folder, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(folder);
    fail(ExitCode::usage, "{}: another run is writing its dump there; give another folder",
         dir.string());
  }
  return folder;
}

}  // namespace

void check_dump_options(const RunOptions& options) {
  if (options.dump.empty()) return;
  io::check_dump_directory(options.dump, options.force);
  const io::GlobFilter filters(options.dump_filters);
}

RunDump::~RunDump() {
  if (lock_ >= 0) ::close(lock_);
}

RunDump::RunDump(const RunOptions& options, const RunInputs& inputs,
                 const layout::ProcessGrid& grid, std::string_view backend,
                 comm::Communicator& world, Progress& progress)
    : options_(options), world_(world), progress_(progress) {
  if (options.dump.empty()) return;
  if (world.rank() == 0) {
    io::check_dump_directory(options.dump, options.force);
    lock_ = lock_folder(options.dump);
    io::prepare_dump_directory(options.dump, options.force);
  }
  world.barrier({"dump folder made"});
  info_.version = LONGHAUL_VERSION;
  info_.model = options.model.string();
  info_.config_json = inputs.config_json;
  info_.grid = grid;
  info_.layout = options.layout;
  info_.strategy = options.strategy;
  info_.backend = backend;
  info_.dtype = options.dtype;
  info_.command = options.command_line;
  for (const io::Prompt& p : inputs.prompts)
    info_.prompts.push_back({p.id, static_cast<int64_t>(p.tokens.size())});
  dump_ = std::make_unique<io::HdfDump>(options.dump, world.rank(), world.size(),
                                        options.dump_filters, info_, &progress);
}

int64_t RunDump::close() {
  if (!dump_) return 0;
  progress_.enter("close dump");
  const std::vector<std::string> parts = gather_texts(world_, dump_->close());
  const int64_t bytes = dump_->bytes_written();
  if (world_.rank() == 0) io::finalize_manifest(options_.dump, info_, options_.dump_filters, parts);
  world_.barrier({"dump finished"});
  return bytes;
}

}  // namespace longhaul::apps
