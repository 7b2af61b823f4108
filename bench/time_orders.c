// Times instructions in several orders, which `scripts/estimate --free` writes.
// Prints for each the cycles of a call, the lower quartile of those that
// nothing else disturbed, or 0 if all were.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

// The last is 0.
extern void (*const orders[])(void *blocks, void *output, void *others);

// Output and blocks in one page of 2 MiB, if there are such; and in several, as
// it matters where they are.
enum { kPage = 2 << 20, kPages = 9, kTimes = 36 };
static char others[4096] __attribute__((aligned(4096)));

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
  char *pages = aligned_alloc(kPage, kPages * kPage);
  if (!pages) return 1;
  madvise(pages, kPages * kPage, MADV_HUGEPAGE);
  memset(pages, 0, kPages * kPage);
  for (int order = 0; orders[order]; ++order) {
    double of[kTimes];
    int n = 0;
    for (int i = 0; n < kTimes && i < 20000; ++i) {
      if (quiet() > 1.08 * best) continue;
      // (Blocks not 4 KiB from the output: they would seem to need it.)
      char *output = pages + i % kPages * kPage;
      char *blocks = output + (640 << 10) + 2048;
      orders[order](blocks, output, others);
      double start = now();
      orders[order](blocks, output, others);
      double end = now();
      if (quiet() <= 1.08 * best) of[n++] = (end - start) / cycle;
    }
    qsort(of, n, sizeof(*of), compare);
    printf("%f\n", n ? of[n / 4] : 0);
  }
}
