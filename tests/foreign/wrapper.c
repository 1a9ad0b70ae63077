// SPDX-License-Identifier: Apache-2.0
//
// Runs the program that it is linked with, whose main has been renamed.
#include "safe_call.h"

#ifndef PROGRAM_MAIN
#define PROGRAM_MAIN program_main
#endif

extern char** environ;
int PROGRAM_MAIN(int argc, char** argv, char** environment);

EXPORT(run_program) {
  static char name[] = "program";
  static char* argv[] = {name, 0};
  RETURN(PROGRAM_MAIN(1, argv, environ));
}
