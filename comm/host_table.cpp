#include "comm/host_table.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <random>

#include "runtime/core/check.h"

namespace longhaul::comm {
namespace {

constexpr size_t kHeaderBytes = 256;
static_assert(sizeof(HostTable::Header) <= kHeaderBytes);
constexpr int kMaxSlots = 4096;

size_t record_stride() {
  return (sizeof(RankRecord) + 63) / 64 * 64;
}

// FNV-1a, 64 bits.
uint64_t hash_of(const std::string& text) {
  uint64_t h = 0xcbf29ce484222325u;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return h;
}

uint64_t own_pid_namespace() {
  struct stat info {};
  return stat("/proc/self/ns/pid", &info) == 0 ? static_cast<uint64_t>(info.st_ino) : 0;
}

}  // namespace

HostTable::HostTable(const Launcher& launcher) : pid_namespace_(own_pid_namespace()) {
  if (launcher.launched && !launcher.job.empty() && launcher.local_size > 1 &&
      launcher.local_size <= kMaxSlots && launcher.local_rank >= 0 &&
      launcher.local_rank < launcher.local_size) {
    slots_ = launcher.local_size;
    self_ = launcher.local_rank;
    if (map_shared(launcher)) return;
    slots_ = 1;
    self_ = 0;
  }
  bytes_ = kHeaderBytes + record_stride();
  memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory_ == MAP_FAILED) fail(ExitCode::resource, "cannot map {} bytes", bytes_);
}

bool HostTable::map_shared(const Launcher& launcher) {
  std::snprintf(path_, sizeof path_, "/dev/shm/longhaul.%u.%016llx",
                static_cast<unsigned>(geteuid()),
                static_cast<unsigned long long>(hash_of(launcher.job)));
  bytes_ = kHeaderBytes + record_stride() * static_cast<size_t>(slots_);
  const int file = open(path_, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (file < 0) return false;
  struct stat info {};
  bool good = fstat(file, &info) == 0 && S_ISREG(info.st_mode) && info.st_uid == geteuid() &&
              ftruncate(file, static_cast<off_t>(bytes_)) == 0;
  if (good) {
    memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    good = memory_ != MAP_FAILED;
  }
  close(file);
  if (!good) return false;
  shared_ = true;
  if (header().attached.fetch_add(1) + 1 == static_cast<uint32_t>(slots_)) unlink_name();
  return true;
}

HostTable::~HostTable() {
  // Normally long gone; a rank that never came would have kept it.
  if (shared_ && header().attached.load() < static_cast<uint32_t>(slots_)) unlink_name();
  munmap(memory_, bytes_);
}

uint64_t HostTable::token() {
  std::random_device random;
  const uint64_t mine = (uint64_t{random()} << 32 | random()) | 1;
  uint64_t none = 0;
  return header().token.compare_exchange_strong(none, mine) ? mine : none;
}

RankRecord& HostTable::record(int slot) {
  LH_CHECK(slot >= 0 && slot < slots_, "slot {} of {}", slot, slots_);
  return *reinterpret_cast<RankRecord*>(static_cast<std::byte*>(memory_) + kHeaderBytes +
                                        record_stride() * static_cast<size_t>(slot));
}

void HostTable::unlink_name() {
  if (path_[0] != '\0') unlink(path_);
  path_[0] = '\0';
}

bool HostTable::claim_ending(int exit_code) {
  uint32_t none = 0;
  if (!header().ending.compare_exchange_strong(none, static_cast<uint32_t>(exit_code)))
    return false;
  if (shared_ && header().attached.load() < static_cast<uint32_t>(slots_)) unlink_name();
  return true;
}

}  // namespace longhaul::comm
