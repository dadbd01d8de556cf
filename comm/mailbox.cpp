#include "comm/mailbox.h"

#include <cstring>

#include "comm/mismatch.h"
#include "runtime/core/check.h"

namespace longhaul::comm {

Mailbox::Key Mailbox::key_of(const Item& item, const std::vector<int>& world_ranks) {
  const Fingerprint& f = item.fingerprint;
  const int peer = world_ranks[static_cast<size_t>(item.peer)];
  return item.is_send ? Key(f.group, f.sequence, f.round, f.world_rank, peer)
                      : Key(f.group, f.sequence, f.round, peer, f.world_rank);
}

// Leaves `item` waiting or, when its counterpart waits, copies with the lock released.
void Mailbox::meet(Item& item, const Key& key, std::unique_lock<std::mutex>& lock) {
  auto found = waiting_.find(key);
  if (found == waiting_.end()) {
    waiting_.emplace(key, &item);
    return;
  }
  LH_CHECK(found->second->is_send != item.is_send, "two messages of one round between one pair");
  Item& other = *found->second;
  waiting_.erase(found);
  try {
    check_agreement(item.fingerprint, other.fingerprint, item.owner->watch_);
  } catch (...) {
    item.owner->error_ = other.owner->error_ = std::current_exception();
    news_.notify_all();
    return;
  }
  item.copying = other.copying = true;
  const Item& from = item.is_send ? item : other;
  const Item& to = item.is_send ? other : item;
  lock.unlock();
  if (from.fingerprint.bytes > 0)
    std::memcpy(to.data, from.source, static_cast<size_t>(from.fingerprint.bytes));
  lock.lock();
  for (Item* it : {&item, &other}) {
    it->copying = false;
    it->done = true;
    ++it->owner->num_done_;
  }
  news_.notify_all();
}

std::unique_ptr<Exchange> Mailbox::post(const Fingerprint& fingerprint, const Round& round,
                                        const std::vector<int>& world_ranks, RankWatch& watch) {
  auto bundle = std::make_unique<Bundle>(*this, watch);
  auto add = [&](int peer, int64_t bytes, bool is_send, const void* source, void* data) {
    Item item;
    item.fingerprint = fingerprint;
    item.fingerprint.bytes = bytes;
    item.peer = peer;
    item.is_send = is_send;
    item.source = source;
    item.data = data;
    item.owner = bundle.get();
    bundle->items_.push_back(item);
  };
  for (const SendPart& s : round.sends) add(s.peer, s.bytes, true, s.data, nullptr);
  for (const ReceivePart& r : round.receives) add(r.peer, r.bytes, false, nullptr, r.data);
  std::unique_lock lock(mutex_);
  for (Item& item : bundle->items_) meet(item, key_of(item, world_ranks), lock);
  return bundle;
}

bool Mailbox::Bundle::advance() {
  std::lock_guard lock(box_.mutex_);
  if (error_) std::rethrow_exception(error_);
  return num_done_ == items_.size();
}

int Mailbox::Bundle::missing() const {
  std::lock_guard lock(box_.mutex_);
  for (const Item& item : items_)
    if (!item.done && !item.copying) return item.peer;
  return -1;
}

uint64_t Mailbox::Bundle::pieces() const {
  std::lock_guard lock(box_.mutex_);
  return num_done_;
}

Mailbox::Bundle::~Bundle() {
  std::unique_lock lock(box_.mutex_);
  std::erase_if(box_.waiting_, [&](const auto& entry) { return entry.second->owner == this; });
  // A peer may be copying from or to our buffers right now.
  box_.news_.wait(lock, [&] {
    for (const Item& item : items_)
      if (item.copying) return false;
    return true;
  });
}

void Mailbox::wait_for_news(std::chrono::microseconds limit) {
  std::unique_lock lock(mutex_);
  news_.wait_for(lock, limit);
}

void Mailbox::wake_all() {
  news_.notify_all();
}

}  // namespace longhaul::comm
