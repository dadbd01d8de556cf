#include "runtime/core/log.h"

#include <spdlog/sinks/stdout_sinks.h>

#include <cstdlib>
#include <memory>

namespace longhaul {

void init_log(int rank, int num_ranks) {
  auto logger = std::make_shared<spdlog::logger>("longhaul",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern(num_ranks > 1 ? fmt::format("[longhaul %H:%M:%S rank {}] %l: %v", rank)
                                    : "[longhaul %H:%M:%S] %l: %v");
  logger->set_level(rank == 0 ? spdlog::level::info : spdlog::level::warn);
  if (const char* level = std::getenv("LONGHAUL_LOG"))
    logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace longhaul
