// Times instructions in several orders, which `scripts/estimate --free` writes.
// Prints for each the cycles of a call, the median of those that nothing else
// disturbed, or 0 if all were.

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

// The last is 0.
extern void (*const orders[])(void *loads, void *stores);

static char memory[16384] __attribute__((aligned(4096)));

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

// Nanoseconds of 20,000 cycles, one addition each.
static double cycles(void) {
  double start = now();
  for (int i = 0; i < 2000; ++i) {
    __asm__ volatile(".rept 10\nadd $1, %%rax\n.endr" ::: "rax");
  }
  return now() - start;
}

// And of 20,000 additions, four at once, which company slows.
static double quiet(void) {
  double start = now();
  for (int i = 0; i < 500; ++i) {
    __asm__ volatile(
        ".rept 10\nadd $1, %%rax\nadd $1, %%rcx\nadd $1, %%rdx\nadd $1, "
        "%%r8\n.endr" ::
            : "rax", "rcx", "rdx", "r8");
  }
  return now() - start;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

int main(void) {
  double cycle = 1e9, best = 1e9;
  for (int i = 0; i < 300; ++i) {
    double c = cycles() / 20000, q = quiet();
    if (c < cycle) cycle = c;
    if (q < best) best = q;
  }
  for (int order = 0; orders[order]; ++order) {
    double of[9];
    int n = 0;
    for (int i = 0; n < 9 && i < 20000; ++i) {
      if (quiet() > 1.08 * best) continue;
      double start = now();
      // Not 4 KiB apart: loads would seem to need what was stored.
      orders[order](memory, memory + 8192 + 2048);
      double end = now();
      if (quiet() <= 1.08 * best) of[n++] = (end - start) / cycle;
    }
    qsort(of, n, sizeof(*of), compare);
    printf("%f\n", n ? of[n / 2] : 0);
  }
}
