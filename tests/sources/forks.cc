// SPDX-License-Identifier: Apache-2.0
//
// base/fork_lock.h by itself: forks by threads and by signal handlers, in the middle of what they
// must not cut through. Each scenario ends with `exit(0)` or never.
#include "base/fork_lock.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

using object_loader::ForkExclusion;
using object_loader::ForkInclusion;
using object_loader::Mutex;

namespace {

void Check(bool is_right, const char* what) {
  if (is_right) return;
  std::fprintf(stderr, "%s\n", what);
  _exit(1);
}

// What a mutex guards: the same, twice.
struct Guarded {
  Mutex mutex;
  volatile uint64_t first = 0;
  volatile uint64_t second = 0;
  void Change() {
    mutex.lock();
    first = first + 1;
    second = second + 1;
    mutex.unlock();
  }
  void CheckWhole() {
    mutex.lock();
    Check(first == second, "what a mutex guards is half changed");
    mutex.unlock();
  }
};

Guarded guarded[3];

void CheckAll() {
  for (Guarded& each : guarded) each.CheckWhole();
}

// Forks, and waits for a child that does `work`. A child that hangs is ended by its alarm.
template <typename Work>
void Fork(Work work) {
  pid_t child = fork();
  if (child == 0) {
    signal(SIGALRM, SIG_DFL);
    itimerval none{};
    setitimer(ITIMER_REAL, &none, nullptr);
    alarm(20);
    work();
    _exit(0);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
  }
  Check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child has failed");
}

std::atomic<uint64_t> forks_of_handlers{0};

// The child of a thread that was alone goes on as its parent does.
void ForkInHandler(int) {
  Fork([] {});
  ++forks_of_handlers;
}

void Handle(int signal, void (*handler)(int)) {
  struct sigaction action;
  std::memset(&action, 0, sizeof(action));
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigaction(signal, &action, nullptr);
}

// A timer's signals, in every place of a thread that takes locks.
void Timer() {
  Handle(SIGALRM, ForkInHandler);
  // Each time later by a nanosecond's worth of instructions or so.
  for (uint64_t forks = 0; forks < 400; forks = forks_of_handlers) {
    itimerval soon{};
    soon.it_value.tv_usec = 30;
    setitimer(ITIMER_REAL, &soon, nullptr);
    while (forks_of_handlers == forks) {
      guarded[0].Change();
      ForkExclusion outer;
      ForkInclusion inner;
      guarded[1].Change();
    }
  }
  CheckAll();
}

// A handler forks where its thread holds a mutex that another thread waits for.
void HeldByForker() {
  Handle(SIGUSR1, ForkInHandler);
  for (int i = 0; i < 50; ++i) {
    guarded[0].mutex.lock();
    std::thread waiting([] {
      guarded[1].mutex.lock();  // so that it is inside, and has something of its own
      guarded[0].Change();
      guarded[1].mutex.unlock();
    });
    usleep(i % 5 * 500);
    raise(SIGUSR1);
    guarded[0].mutex.unlock();
    waiting.join();
  }
}

// Two handlers fork at a time, each in the middle of something.
void TwoInTheMiddle() {
  Handle(SIGUSR1, ForkInHandler);
  static pthread_barrier_t barrier;
  pthread_barrier_init(&barrier, nullptr, 2);
  auto fork_often = [](Guarded& own) {
    for (int i = 0; i < 100; ++i) {
      own.mutex.lock();
      pthread_barrier_wait(&barrier);
      raise(SIGUSR1);
      own.mutex.unlock();
      pthread_barrier_wait(&barrier);  // a fork would wait for one that waits inside
    }
  };
  std::thread other(fork_often, std::ref(guarded[0]));
  fork_often(guarded[1]);
  other.join();
}

// Threads change things, and come and go, while others fork: each child finds all things whole.
void Threads() {
  std::atomic<bool> is_over{false};
  std::vector<std::thread> threads;
  for (Guarded& each : guarded) {
    threads.emplace_back([&] {
      while (!is_over) {
        std::thread([&] {
          for (int i = 0; i < 200; ++i) {
            each.Change();
            ForkExclusion outside;
            guarded[0].Change();
          }
        }).join();
      }
    });
  }
  auto fork_often = [] {
    for (int i = 0; i < 100; ++i) {
      Fork([] {
        CheckAll();
        Fork(CheckAll);
        CheckAll();
      });
    }
  };
  std::thread other(fork_often);
  fork_often();
  other.join();
  is_over = true;
  for (std::thread& each : threads) each.join();
  CheckAll();
}

// A fork waits for a thread that is inside, and only for so long.
void Waits() {
  sem_t inside;
  sem_t forked;
  sem_init(&inside, 0, 0);
  sem_init(&forked, 0, 0);
  static std::atomic<bool> is_inside{false};
  std::thread other([&] {
    {
      ForkExclusion exclusion;
      is_inside = true;
      sem_post(&inside);
      usleep(200000);
      is_inside = false;
    }
    sem_wait(&forked);  // outside of it a thread may wait for what it likes
  });
  sem_wait(&inside);
  Fork([] { Check(!is_inside, "a fork did not wait"); });
  sem_post(&forked);
  other.join();
}

}  // namespace

int main(int, char** arguments) {
  const char* name = arguments[1];
  struct {
    const char* name;
    void (*run)();
  } scenarios[] = {{"timer", Timer},
                   {"held_by_forker", HeldByForker},
                   {"two_in_the_middle", TwoInTheMiddle},
                   {"threads", Threads},
                   {"waits", Waits}};
  for (auto& scenario : scenarios) {
    if (std::strcmp(scenario.name, name) != 0) continue;
    scenario.run();
    return 0;
  }
  return 2;
}
