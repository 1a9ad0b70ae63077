#include <tvm/ffi/function.h>
#include <absl/container/flat_hash_map.h>
#include <absl/container/btree_map.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <absl/strings/str_format.h>
#include <absl/strings/cord.h>
#include <absl/synchronization/mutex.h>
#include <absl/synchronization/notification.h>
#include <absl/time/time.h>
#include <absl/status/statusor.h>
#include <absl/strings/numbers.h>
#include <absl/hash/hash.h>
#include <thread>
namespace ffi = tvm::ffi;
ffi::String Words(ffi::String text) {
  absl::flat_hash_map<std::string, int> counts;
  std::string copy(text.data(), text.size());
  for (absl::string_view word : absl::StrSplit(copy, ' ', absl::SkipEmpty())) ++counts[std::string(word)];
  absl::btree_map<std::string, int> sorted(counts.begin(), counts.end());
  std::string out;
  for (auto& [word, n] : sorted) absl::StrAppend(&out, word, "=", n, ";");
  return absl::StrFormat("%s %08.3f %x", out, copy.size() / 3.0, counts.size());
}
absl::StatusOr<int64_t> Parse(const std::string& text) {
  int64_t n;
  if (!absl::SimpleAtoi(text, &n)) return absl::InvalidArgumentError(absl::StrCat("not a number: ", text));
  return n;
}
int64_t Number(ffi::String text) {
  auto n = Parse(std::string(text.data(), text.size()));
  if (!n.ok()) TVM_FFI_THROW(ValueError) << n.status();
  return *n;
}
int64_t Locked(int64_t threads) {
  absl::Mutex mutex; int64_t total = 0; std::vector<std::thread> all;
  absl::Notification done;
  for (int64_t t = 0; t < threads; ++t) all.emplace_back([&, t] {
    for (int i = 0; i < 1000; ++i) { absl::MutexLock lock(&mutex); total += t; }
    absl::MutexLock lock(&mutex);
    if (t == 0) done.Notify();
  });
  done.WaitForNotification();
  mutex.Lock(); mutex.Await(absl::Condition(+[](int64_t* t) { return *t >= 0; }, &total)); mutex.Unlock();
  for (auto& t : all) t.join();
  return total;
}
ffi::String Time(int64_t seconds) {
  absl::Cord cord(absl::FormatTime(absl::FromUnixSeconds(seconds), absl::UTCTimeZone()));
  for (int i = 0; i < 100; ++i) cord.Append(absl::StrCat("+", i));
  return std::string(cord);
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(words, Words);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(number, Number);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(locked, Locked);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(time, Time);
