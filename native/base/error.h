// SPDX-License-Identifier: Apache-2.0
//
// The exceptions of the native core. Every failure below the bindings leaves as one of these; the
// bindings turn each into the Python class of the same name. Destructors, deleters and finalizers
// never throw. llvm::Error is converted at the place where it arises, with its cause in full.
//
// The classes stay header-only: part of the core is built without RTTI (as LLVM is), and only an
// inline class gets its type information in every object that throws or catches it.
#ifndef OBJECT_LOADER_BASE_ERROR_H_
#define OBJECT_LOADER_BASE_ERROR_H_

#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace llvm {
class Error;
}

namespace object_loader {

class ObjectLoaderError : public std::runtime_error {
 public:
  // Null characters, which names that a user gives may have, are written as \0.
  explicit ObjectLoaderError(const std::string& message);
};

class ObjectFormatError : public ObjectLoaderError {
 public:
  using ObjectLoaderError::ObjectLoaderError;
};

class LinkError : public ObjectLoaderError {
 public:
  using ObjectLoaderError::ObjectLoaderError;
};

class SymbolError : public LinkError {
 public:
  SymbolError(const std::string& message, std::vector<std::string> names)
      : LinkError(message), symbols(std::move(names)) {}
  std::vector<std::string> symbols;
};

class UndefinedSymbolError : public SymbolError {
 public:
  using SymbolError::SymbolError;
};

class DuplicateSymbolError : public SymbolError {
 public:
  using SymbolError::SymbolError;
};

class FunctionNotFoundError : public ObjectLoaderError {
 public:
  using ObjectLoaderError::ObjectLoaderError;
};

class SessionClosedError : public ObjectLoaderError {
 public:
  using ObjectLoaderError::ObjectLoaderError;
};

// What was waited for did not end in time, or whoever waited was told not to any longer.
class GaveUpWaiting : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A file that the operating system would not give us; becomes the matching subclass of OSError.
class FileError : public std::runtime_error {
 public:
  FileError(int error_number, std::string file)
      : std::runtime_error(file), code(error_number), path(std::move(file)) {}
  int code;
  std::string path;
};

// Memory that the operating system would not give us; becomes MemoryError.
class OutOfMemoryError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws one DuplicateSymbolError for all of them: symbol -> its message.
[[noreturn]] void ThrowDuplicates(const std::map<std::string, std::string>& duplicates);

// The text of `error`, which is consumed; several causes are joined by "; ".
std::string Message(llvm::Error error);

// `symbol` as its author wrote it, "foo(int) [_Z3fooi]", or as it is where it isn't mangled.
std::string Demangled(const std::string& symbol);

}  // namespace object_loader

#endif  // OBJECT_LOADER_BASE_ERROR_H_
