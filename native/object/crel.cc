// SPDX-License-Identifier: Apache-2.0
#include "object/crel.h"

#include <llvm/Support/LEB128.h>

namespace object_loader {

namespace {

class Reader {
 public:
  explicit Reader(llvm::StringRef content)
      : position_(content.bytes_begin()), end_(content.bytes_end()) {}

  uint64_t Unsigned() { return Take(llvm::decodeULEB128); }
  int64_t Signed() { return Take(llvm::decodeSLEB128); }
  uint8_t Byte() {
    if (position_ == end_) ok_ = false;
    return ok_ ? *position_++ : 0;
  }
  bool ok() const { return ok_; }
  bool at_end() const { return position_ == end_; }

 private:
  template <typename T>
  T Take(T (*decode)(const uint8_t*, unsigned*, const uint8_t*, const char**)) {
    unsigned length = 0;
    const char* error = nullptr;
    T value = ok_ ? decode(position_, &length, end_, &error) : 0;
    if (error) ok_ = false;
    if (ok_) position_ += length;
    return value;
  }

  const uint8_t* position_;
  const uint8_t* end_;
  bool ok_ = true;
};

}  // namespace

bool DecodeCrel(llvm::StringRef content, std::vector<llvm::object::ELF64LE::Rela>& relocations) {
  Reader reader(content);
  uint64_t header = reader.Unsigned();
  uint64_t count = header / 8;
  bool has_addends = (header & 4) != 0;
  unsigned shift = header & 3;
  // A relocation takes a byte at least. Those without addends are for processors that keep them in
  // the code.
  if (!reader.ok() || count > content.size() || (count != 0 && !has_addends)) return false;
  constexpr unsigned flag_bits = 3;
  uint64_t offset = 0;
  uint32_t symbol = 0;
  uint32_t type = 0;
  uint64_t addend = 0;
  relocations.reserve(relocations.size() + count);
  for (; count > 0; --count) {
    // The first byte has the flags and the low bits of the difference of offsets.
    uint8_t first = reader.Byte();
    uint64_t difference = first >> flag_bits;
    if (first & 0x80) {
      difference += (reader.Unsigned() << (7 - flag_bits)) - (0x80U >> flag_bits);
    }
    offset += difference << shift;
    if (first & 1) symbol += static_cast<uint32_t>(reader.Signed());
    if (first & 2) type += static_cast<uint32_t>(reader.Signed());
    if (first & 4) addend += static_cast<uint64_t>(reader.Signed());
    if (!reader.ok()) return false;
    llvm::object::ELF64LE::Rela relocation;
    relocation.r_offset = offset;
    relocation.setSymbolAndType(symbol, type, /*IsMips64EL=*/false);
    relocation.r_addend = static_cast<int64_t>(addend);
    relocations.push_back(relocation);
  }
  return reader.at_end();
}

}  // namespace object_loader
