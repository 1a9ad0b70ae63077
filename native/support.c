/* SPDX-License-Identifier: Apache-2.0
 *
 * What a static linker adds to every shared library from libc_nonshared.a: functions that glibc
 * does not export because they must know which library calls them. This file is compiled to an
 * object that the extension carries; a load that needs one of these functions links it in, so that
 * `__dso_handle` below is the load's own and handlers are run, or forgotten, when it is unloaded.
 */
extern void* __dso_handle;

extern int __cxa_atexit(void (*handler)(void*), void* argument, void* dso);
extern int __cxa_at_quick_exit(void (*handler)(void*), void* dso);
extern int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void),
                             void* dso);

/* glibc calls the handler with an argument that a function without parameters does not look at. */
int atexit(void (*handler)(void)) {
  return __cxa_atexit((void (*)(void*))(void*)handler, 0, &__dso_handle);
}

int at_quick_exit(void (*handler)(void)) {
  return __cxa_at_quick_exit((void (*)(void*))(void*)handler, &__dso_handle);
}

int pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
  return __register_atfork(prepare, parent, child, &__dso_handle);
}
