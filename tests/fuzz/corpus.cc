// SPDX-License-Identifier: Apache-2.0
//
// What mutants are made of: exceptions, COMDAT, vtables, jump tables, strings, weak symbols,
// thread-local variables, and no initializers, so that loading a mutant runs none of its code.
//
// It is also the witness, loaded as it is: it tells when anything of its own has changed.
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "safe_call.h"

struct Base {
  virtual ~Base() = default;
  virtual int code() const { return 1; }
};
struct Derived : Base {
  explicit Derived(int n) : n_(n) {}
  int code() const override { return n_; }
  int n_;
};

int counter;
static int table[64] = {1, 2, 3};
int* pointer = &table[5];
const char* names[] = {"a", "b"};
char zeros[100000];
thread_local int per_thread = 7;
static thread_local int* to_counter = &counter;
extern "C" __attribute__((weak)) int weak_one() { return counter; }
extern "C" __attribute__((weak)) int not_there();

template <typename T>
T Twice(T x) {
  return x + x;
}

std::string Text(int n) {
  std::string text;
  for (int i = 0; i < n; ++i) text += std::to_string(Twice(i));
  return text;
}

int Lookup(const std::map<std::string, int>& map, const std::string& key) {
  try {
    return map.at(key);
  } catch (const std::out_of_range&) {
    throw Derived(3);
  }
}

int Switch(int x) {
  switch (x) {
    case 1:
      return static_cast<int>(Text(3).size());
    case 2:
      return table[x] + *pointer + weak_one();
    case 3:
      return not_there ? not_there() : 9;
    case 4:
      throw std::runtime_error("four");
    case 5:
      return zeros[x] + names[1][0] + ++per_thread + *to_counter;
    case 6:
      abort();
  }
  return 0;
}

constexpr uint64_t Pattern(uint64_t key, uint64_t i) {
  return (key + i) * 0x9E3779B97F4A7C15 ^ (key << 32 | i);
}

template <size_t size>
struct Guard {
  constexpr explicit Guard(uint64_t key) : words() {
    for (uint64_t i = 0; i < size; ++i) words[i] = Pattern(key, i);
  }
  uint64_t words[size];
};
uint64_t guard[2048];
static const Guard<64> constant_guard(1);
static Guard<64> data_guard(2);
static thread_local Guard<4> thread_guard(3);
const uint64_t* const into_guards[] = {&constant_guard.words[5], &data_guard.words[6]};

template <size_t size>
int64_t Changes(const uint64_t (&words)[size], uint64_t key) {
  int64_t changes = 0;
  for (uint64_t i = 0; i < size; ++i) {
    // The compiler is not to know what the constant ones are.
    changes += *const_cast<const volatile uint64_t*>(&words[i]) != Pattern(key, i);
  }
  return changes;
}

EXPORT(fill_guard) {
  for (uint64_t i = 0; i < std::size(guard); ++i) guard[i] = Pattern(INT(0), i);
  RETURN(0);
}

// How many words and results are not what they were.
EXPORT(changes) {
  int64_t changes = Changes(guard, INT(0)) + Changes(constant_guard.words, 1) +
                    Changes(data_guard.words, 2) + Changes(thread_guard.words, 3);
  changes += *into_guards[0] != Pattern(1, 5) || *into_guards[1] != Pattern(2, 6);
  changes += Switch(1) != 3 || Switch(2) != 3 || Switch(3) != 9 || Text(4) != "0246";
  try {
    Lookup({{"a", 1}}, "b");
    ++changes;
  } catch (const Base& base) {
    changes += base.code() != 3;
  }
  RETURN(changes);
}

EXPORT(throw_and_catch) {
  try {
    if (INT(0)) throw 42;
  } catch (int number) {
    RETURN(number);
  }
  RETURN(0);
}
