// SPDX-License-Identifier: Apache-2.0
//
// Dylib: what a shared library is to dlopen: objects linked into the process, their symbols, and
// the order of other dylibs in which it looks for what it lacks.
//
// dylib.cc has its life, dylib_load.cc what a load does, dylib_symbols.cc how symbols are bound and
// found.
//
// Lifetime: code stays loaded until Close or Drop, and after that for as long as it has users:
// other dylibs that link to it, threads that are to run its destructors, objects that it made. What
// a failed load ran and left such users stays as well, unseen, until the dylib is unloaded.
// Concurrency: loads into one dylib take turns (a load from within an initializer belongs to
// the turn it happens in); the symbols of a load become visible to other threads when its
// initializers have finished. Neither the mutex nor ORC's locks are held while loaded code runs.
#ifndef OBJECT_LOADER_DYLIB_H_
#define OBJECT_LOADER_DYLIB_H_

#include <llvm/ADT/DenseMap.h>
#include <llvm/ADT/STLFunctionalExtras.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "call_guard.h"
#include "fork_lock.h"
#include "inputs.h"
#include "session.h"
#include "shared_library.h"
#include "turns.h"

namespace object_loader {

class Dylib : public SessionMember, public std::enable_shared_from_this<Dylib> {
 public:
  // Either a dylib or a shared library.
  struct Link {
    std::shared_ptr<Dylib> dylib;
    std::shared_ptr<void> owner;  // whatever else has to live as long as the dylib is linked to
    std::shared_ptr<SharedLibrary> library;
  };

  // Throws SessionClosedError and ObjectLoaderError (a taken name, a dylib of another session).
  static std::shared_ptr<Dylib> Create(std::shared_ptr<Session> session,
                                       const std::optional<std::string>& name,
                                       std::vector<Link> link_order);
  ~Dylib() override;

  // Makes the dylib one of its session's members. `representation` is for the layer above: how to
  // get from the dylib to what represents it there.
  void Publish(std::shared_ptr<void> representation);
  const std::shared_ptr<void>& representation() const { return representation_; }

  uint64_t id() const { return id_; }
  const std::string& name() const override { return name_; }
  const std::shared_ptr<Session>& session() const { return session_; }
  // Empty once the code is unloaded.
  std::vector<Link> link_order() const;
  const CallGate& gate() const { return gate_; }
  bool closed() const { return gate_.closed(); }

  // Links the inputs and runs their initializers, then `on_initialized`. What the dylib lacks is
  // from now on searched in `libraries` as well. If any of it throws, the dylib is as it was.
  void Load(Inputs inputs, std::vector<std::shared_ptr<SharedLibrary>> libraries,
            const std::function<void()>& on_initialized);

  // The names of the exported TVM-FFI functions, sorted. Throws SessionClosedError.
  std::vector<std::string> FunctionNames() const;
  // The address of the function, or null.
  void* FindFunction(const std::string& name) const;
  // The same, or FunctionNotFoundError, or SessionClosedError.
  void* GetFunction(const std::string& name) const;
  // The address of a symbol that this dylib itself exports, or null.
  void* FindSymbol(const std::string& symbol) const;
  // Sets the pointer that is the symbol's variable to null, if there is one.
  void ClearPointer(const std::string& symbol) const;
  // As dlsym: searches the link order too. Throws UndefinedSymbolError and SessionClosedError.
  void* Lookup(const std::string& symbol) const;

  void CheckClosable() const override;
  void Close() override;
  // As Close, by whoever lets go of the last reference: waits for nobody, and never fails.
  void Drop();
  void TryUnload() override;

  // The code at this address, which stays in memory until the result is gone; null where no dylib's
  // code is there. For use by whoever knows that the code is loaded. Throws std::bad_alloc.
  static std::shared_ptr<void> KeepCodeAt(const void* address);
  // The message of the SessionClosedError for this dylib.
  std::string ClosedMessage() const;

 private:
  // In eight bytes, as there are dozens for each load: addresses of a process have 56 bits at most.
  struct Symbol {
    uint64_t place : 56;  // the address
    uint64_t weak : 1;
    uint64_t exported : 1;
    uint64_t initializing : 1;     // seen only by the thread whose turn it is
    uint64_t is_thread_local : 1;  // the place is an offset; see thread_local_modules_
    uint64_t is_wide : 1;          // a number that is no address; see wide_values_
  };
  struct Library {
    std::shared_ptr<SharedLibrary> library;
    bool initializing;  // as for a symbol
  };
  // A symbol, where it was found.
  struct Found {
    llvm::orc::ExecutorAddr value;  // of a thread-local variable its offset
    bool weak;
    bool is_thread_local;
    bool initializing;                            // as in the table
    std::shared_ptr<const TlsModule> tls_module;  // of a thread-local variable of a dylib
    const Dylib* dylib;                           // one of the two
    const SharedLibrary* library;  // of whose symbols it is not known which are thread-local
  };
  // Where a symbol is looked for that the dylib's objects don't define.
  struct SearchOrder {
    std::vector<std::shared_ptr<SharedLibrary>> libraries;
    std::vector<Link> link_order;

    std::optional<Found> Find(const llvm::orc::SymbolStringPtr& name) const;
    // In what the libraries themselves depend on. A static linker does not look there, the dynamic
    // one does, after everything else.
    std::optional<Found> FindInDependencies(const llvm::orc::SymbolStringPtr& name) const;
  };
  enum class User { kOther, kThread };
  struct Use;
  struct Loaded : CodeOwner {
    explicit Loaded(Dylib& owner) : dylib(owner) {}
    std::shared_ptr<void> Keep();
    std::shared_ptr<void> KeepForThread() override;
    void Count(Use& use, User kind);

    Dylib& dylib;
    Image image;
    uint64_t objects = 0;
    uint64_t symbols = 0;
    uint64_t users = 0;        // those of the dylib's users that need this code
    std::weak_ptr<void> kept;  // what Keep has given
    std::vector<std::shared_ptr<SharedLibrary>> libraries;  // of a failed load
  };
  // The right to change what is loaded, for one thread at a time.
  class Turn {
   public:
    explicit Turn(Dylib& dylib);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    Dylib& dylib_;
  };

  Dylib(std::shared_ptr<Session> session, std::string name);

  void LoadObjects(Inputs inputs, const std::function<void()>& on_initialized);
  std::unique_ptr<LoadGraph> MakeGraph(std::vector<ObjectFile>& objects, size_t own) const;
  llvm::orc::SymbolStringPtr Intern(const std::string& symbol) const;
  // Binds the graph and returns what it defines, or adds to `support` the members of SupportArchive
  // that have to be linked with it.
  std::vector<Definition> Bind(LoadGraph& load, std::vector<uint32_t>& support) const;
  std::vector<Definition> BindDefinitions(LoadGraph& load) const;
  void BindReferences(LoadGraph& load, std::vector<uint32_t>& support) const;
  void Bind(LoadGraph& load, const Reference& reference, const Found& found) const;
  // Among all symbols of the dylib's own. For use by the thread that has the turn.
  std::optional<Found> FindOwn(const llvm::orc::SymbolStringPtr& name) const;
  std::optional<Found> FindExported(const llvm::orc::SymbolStringPtr& name) const;
  Found FoundHere(const llvm::orc::SymbolStringPtr& name, const Symbol& symbol) const;
  // What the dylib offers to those that link to it: its own symbols, then those of its libraries.
  std::optional<Found> FindOffered(const llvm::orc::SymbolStringPtr& name) const;
  static std::optional<Found> FindIn(const std::vector<std::shared_ptr<SharedLibrary>>& libraries,
                                     const llvm::orc::SymbolStringPtr& name,
                                     std::optional<void*> (SharedLibrary::*find)(const std::string&)
                                         const);
  static void* AddressOf(const Found& found);
  static TlsVariable ThreadLocal(const Found& found) {
    return {found.tls_module, "", found.value.getValue(), ""};
  }
  SearchOrder Search() const;
  std::string LibraryOf(const std::string& symbol) const;
  std::vector<std::shared_ptr<SharedLibrary>> Libraries() const;
  void AddLibraries(const std::vector<std::shared_ptr<SharedLibrary>>& libraries);
  void RemoveLibraries(const std::vector<std::shared_ptr<SharedLibrary>>& libraries);
  void PublishLibraries(const std::vector<std::shared_ptr<SharedLibrary>>& libraries);
  void EraseSymbol(const llvm::orc::SymbolStringPtr& name);
  void AddSymbol(const llvm::orc::SymbolStringPtr& name, const Definition& definition,
                 uint64_t value);
  void Initialize(const LoadGraph& load, const Image& image) const;
  void ThrowIfClosed() const;
  [[noreturn]] void ThrowCircle(const char* what) const;
  void ForgetInterruptedLoad();
  void CancelClose();
  void WaitAndUnload();
  void LeaveSession();
  // Notes that a symbol's address is given to somebody, who may use it after a failed load.
  void NoteUse(const Found& found) const;
  void Undo(std::list<Loaded>& loaded, bool is_used);
  void AddUser();
  void RemoveUser(User kind, Loaded* of = nullptr);
  void Abandon();
  // Where nothing needs the code, and `is_left` says that no call is inside.
  void Unload(llvm::function_ref<bool()> is_left);
  void UnloadNow();

  const uint64_t id_;
  const std::string name_;
  const std::shared_ptr<Session> session_;
  CallGate gate_;
  std::shared_ptr<void> representation_;

  mutable Mutex mutex_;
  Turns turns_;                      // to load
  int closers_ = 0;                  // threads in Close
  uint64_t users_ = 0;               // whoever needs the code beside its owner
  uint64_t thread_users_ = 0;        // those of them that are destructors pending in a thread
  mutable uint64_t early_uses_ = 0;  // of symbols while their initializers ran
  bool abandoned_ = false;           // closed or dropped, and no call is inside
  bool unloaded_ = false;
  std::atomic<bool> left_session_{false};
  std::vector<Link> link_order_;
  std::vector<Library> libraries_;
  llvm::SmallDenseMap<llvm::orc::SymbolStringPtr, Symbol, 4> symbols_;
  llvm::DenseMap<llvm::orc::SymbolStringPtr, std::shared_ptr<const TlsModule>>
      thread_local_modules_;
  llvm::DenseMap<llvm::orc::SymbolStringPtr, uint64_t> wide_values_;
  std::list<Loaded> loads_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_DYLIB_H_
