// SPDX-License-Identifier: Apache-2.0
// What C compilers turn into different sections and relocations, at every level of optimization.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "safe_call.h"

int64_t global_data[4] = {1, 2, 3, 4};
int64_t global_zeros[64];
static int64_t local_data = 5;
static const double doubles[] = {0.5, 1.5, 2.5, 3.5};
static const char* const words[] = {"zero", "one", "two", "three", "four"};

static int64_t plus(int64_t a, int64_t b) { return a + b; }
static int64_t minus(int64_t a, int64_t b) { return a - b; }
static int64_t times(int64_t a, int64_t b) { return a * b; }
static int64_t (*const operations[])(int64_t, int64_t) = {plus, minus, times};
static void* addresses[] = {global_data, &global_data[2], &local_data, (void*)plus};

__attribute__((noinline)) static int64_t jump(int64_t n) {
  switch (n) {
    case 0: return 17;
    case 1: return strlen(words[1]);
    case 2: return local_data * 3;
    case 3: return global_data[3] << 2;
    case 4: return (int64_t)sqrt(1764.0);
    case 5: return strtol("505", 0, 10);
    case 6: return abs(-606);
    case 7: return 0x123456789abcdefLL;
    default: return -n;
  }
}

static int compare(const void* a, const void* b) { return *(const int*)a - *(const int*)b; }

EXPORT(jump) { RETURN(jump(INT(0))); }
EXPORT(operate) { RETURN(operations[INT(0)](INT(1), INT(2))); }
EXPORT(through_addresses) {
  RETURN(*(int64_t*)addresses[1] * 100 + *(int64_t*)addresses[2] +
         (addresses[3] == (void*)plus) + (addresses[0] == global_data));
}
EXPORT(floats) {
  double sum = 0;
  for (int64_t i = 0; i < INT(0); ++i) sum += doubles[i & 3] * (double)i + fmod(i, 1.25);
  RETURN(sum * 1000);
}
EXPORT(sort) {
  int numbers[] = {5, 3, 9, 1, 7, 2, 8};
  qsort(numbers, 7, sizeof(int), compare);
  int64_t digits = 0;
  for (int i = 0; i < 7; ++i) digits = digits * 10 + numbers[i];
  RETURN(digits);
}
EXPORT(format) {
  char text[64];
  int length = snprintf(text, sizeof text, "%s-%d-%.3f", words[INT(0)], (int)INT(0), doubles[1]);
  for (int i = 0; i < length; ++i) global_zeros[i & 63] += text[i];
  RETURN(length * 1000 + global_zeros[0]);
}
EXPORT(vectors) {
  float a[64], b[64], sum = 0;
  for (int i = 0; i < 64; ++i) a[i] = (float)(i * INT(0)), b[i] = 0.25f * (float)i;
  for (int i = 0; i < 64; ++i) sum += a[i] * b[i] + 1.0f;
  RETURN(sum);
}
EXPORT(memory) {
  char* block = malloc(1 << 16);
  memset(block, (int)INT(0), 1 << 16);
  memmove(block + 7, block, 1000);
  int64_t result = block[65535] + memcmp(block, block + 500, 400);
  free(block);
  RETURN(result);
}
