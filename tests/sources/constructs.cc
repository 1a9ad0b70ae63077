// SPDX-License-Identifier: Apache-2.0
// What C++ compilers turn into different sections and relocations, at every level of optimization.
// It addresses no data of a shared library directly, so that it links without -fPIC as well.
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "safe_call.h"

namespace {

struct Shape {
  virtual ~Shape() = default;
  virtual int64_t area() const = 0;
};
struct Square : Shape {
  explicit Square(int64_t side) : side_(side) {}
  int64_t area() const override { return side_ * side_; }
  int64_t side_;
};
struct Pair : Square {
  using Square::Square;
  int64_t area() const override { return 2 * Square::area(); }
};

struct Failure {
  int64_t code;
};
struct Counted {
  Counted() { ++alive; }
  ~Counted() { --alive; }
  static int64_t alive;
};
int64_t Counted::alive = 0;

__attribute__((noinline)) int64_t throw_if_odd(int64_t n) {
  Counted counted;
  if (n & 1) throw Failure{n * 10 + Counted::alive};
  return n;
}

std::map<std::string, int64_t> table = {{"one", 1}, {"two", 2}, {"three and more letters", 3}};

template <typename T>
T fold(const std::vector<T>& values) {
  static T calls{};
  T sum = ++calls;
  for (const T& value : values) sum += value;
  return sum - calls;
}

}  // namespace

inline int64_t inline_variable = 12;  // never written: a dlopened one is shared by the process

EXPORT(areas) {
  std::vector<std::unique_ptr<Shape>> shapes;
  shapes.push_back(std::make_unique<Square>(INT(0)));
  shapes.push_back(std::make_unique<Pair>(INT(0)));
  int64_t sum = 0;
  for (const auto& shape : shapes) sum += shape->area();
  RETURN(sum + (dynamic_cast<Pair*>(shapes[1].get()) != nullptr) +
         (dynamic_cast<Pair*>(shapes[0].get()) != nullptr));
}
EXPORT(failures) {
  int64_t sum = 0;
  for (int64_t n = 0; n < INT(0); ++n) {
    try {
      sum += throw_if_odd(n);
    } catch (const Failure& failure) {
      sum += failure.code;
    }
  }
  RETURN(sum * 1000 + Counted::alive);
}
EXPORT(words) {
  std::string text;
  for (const auto& [word, number] : table) text += word + std::to_string(number * INT(0)) + ";";
  RETURN(text.size() * 100 + static_cast<unsigned char>(text[INT(0)]));
}
EXPORT(folds) {
  RETURN(fold(std::vector<int64_t>{1, 2, 3, INT(0)}) + int64_t(fold(std::vector<double>{0.5, 2.5})));
}
EXPORT(lambdas) {
  int64_t base = INT(0);
  auto add = [base](int64_t n) { return n + base; };
  auto twice = [&](auto function) { return function(function(1)); };
  RETURN(twice(add) + inline_variable);
}
