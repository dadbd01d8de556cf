// Runs a fuzz target without libFuzzer: seeds and N mutations of them, the same ones every time.
//   fuzz_x [N]            runs N mutated inputs (default 30,000)
//   fuzz_x --print K      writes the K-th input to stdout
//   fuzz_x FILE ...       runs files

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>

#include "tests/fuzz/checkpoint/fuzz_target.h"

namespace {

using longhaul::fuzz::repair;

volatile sig_atomic_t current_input = 0;

// Says which input it was, then lets the signal do what it does.
void report_signal(int signal_number) {
  char text[] = "fuzz: died on input           (--print shows it)\n";
  unsigned number = static_cast<unsigned>(current_input);
  for (size_t at = 28; number > 0 || at == 28; number /= 10)
    text[at--] = static_cast<char>('0' + number % 10);
  (void)!::write(STDERR_FILENO, text, sizeof text - 1);
  ::signal(signal_number, SIG_DFL);
  ::raise(signal_number);
}

class Mutator {
 public:
  Mutator() : seeds_(longhaul::fuzz::seeds()), words_(longhaul::fuzz::words()) {}

  // Input k is a function of k alone.
  std::string make(uint64_t k) {
    if (k < seeds_.size()) return seeds_[k];
    random_.seed(k * 0x9e3779b97f4a7c15ULL + 1);
    std::string input = seeds_[below(seeds_.size())];
    const size_t steps = 1 + below(6);
    for (size_t i = 0; i < steps; ++i) mutate(input);
    if (below(8) != 0) repair(input);
    return input;
  }

 private:
  size_t below(size_t n) { return n == 0 ? 0 : static_cast<size_t>(random_() % n); }

  void mutate(std::string& s) {
    const size_t at = below(s.size() + 1);
    const std::string& word = words_[below(words_.size())];
    switch (below(9)) {
      case 0:
        if (at < s.size()) s[at] = static_cast<char>(s[at] ^ (1 << below(8)));
        break;
      case 1:
        s.insert(at, 1, static_cast<char>(below(256)));
        break;
      case 2:
        s.erase(at, 1 + below(8));
        break;
      case 3:
        s.insert(at, word);
        break;
      case 4:
        replace_token(s, word);
        break;
      case 5:
        s.insert(at, s.substr(below(s.size() + 1), below(40)));
        break;
      case 6:
        s.resize(at);
        break;
      case 7: {
        const std::string& other = seeds_[below(seeds_.size())];
        s = s.substr(0, at) + other.substr(below(other.size() + 1));
        break;
      }
      default:
        replace_token(s, std::to_string(random_() >> below(64)));
        break;
    }
  }

  // A run of digits, letters or quotes somewhere becomes `by`.
  void replace_token(std::string& s, const std::string& by) {
    const auto in_token = [](char c) {
      return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '"' || c == '_' || c == '.';
    };
    size_t begin = below(s.size() + 1);
    while (begin < s.size() && !in_token(s[begin])) ++begin;
    size_t end = begin;
    while (end < s.size() && in_token(s[end])) ++end;
    while (begin > 0 && in_token(s[begin - 1])) --begin;
    s.replace(begin, end - begin, by);
  }

  std::vector<std::string> seeds_, words_;
  std::mt19937_64 random_;
};

void run(const std::string& input) {
  // A copy of exactly this size, so that a sanitizer sees any step past its end.
  const std::vector<uint8_t> bytes(input.begin(), input.end());
  (void)LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

int run_files(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    std::ifstream in(argv[i], std::ios::binary);
    if (!in) {
      std::fprintf(stderr, "fuzz: %s cannot be read\n", argv[i]);
      return 2;
    }
    run(std::string(std::istreambuf_iterator<char>(in), {}));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Mutator mutator;
  if (argc == 3 && std::strcmp(argv[1], "--print") == 0) {
    const std::string input = mutator.make(std::strtoull(argv[2], nullptr, 10));
    return std::fwrite(input.data(), 1, input.size(), stdout) == input.size() ? 0 : 1;
  }
  char* end = nullptr;
  const unsigned long long count = argc > 1 ? std::strtoull(argv[1], &end, 10) : 30'000;
  if (argc > 1 && *end != '\0') return run_files(argc, argv);
  for (int signal_number : {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL})
    ::signal(signal_number, report_signal);
  double slowest = 0;
  for (unsigned long long k = 0; k < count; ++k) {
    current_input = static_cast<sig_atomic_t>(k);
    const std::string input = mutator.make(k);
    const auto start = std::chrono::steady_clock::now();
    run(input);
    slowest = std::max(
        slowest, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::printf("%llu inputs, the slowest %.1f ms\n", count, slowest * 1e3);
  return 0;
}
