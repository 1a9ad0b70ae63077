// SPDX-License-Identifier: Apache-2.0
//
// What mutants are made of: exceptions, COMDAT, vtables, jump tables, strings, weak symbols,
// thread-local variables, and no initializers, so that loading a mutant runs none of its code.
#include <cstdlib>
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

EXPORT(throw_and_catch) {
  try {
    if (INT(0)) throw 42;
  } catch (int number) {
    RETURN(number);
  }
  RETURN(0);
}
