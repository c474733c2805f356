/* On a CPU: attention over a segment, with its gradient, and a whole layer of Expire-Span at a step.  compiled.py calls it.

   What attention.py does with operations on all pairs of a step and a memory, attention.h does for the pairs that can see
   each other.  A vector holds LANES steps of a segment, or environments, or numbers of one head.

   The parts in kernels/ are compiled once for each type of number.  Arrays are contiguous, the last index runs fastest.
   B rows, T steps, S = S0 + T memories (those stored, then the new ones), H heads of K numbers, D = H K, F the hidden
   width of the feed-forward half.  What a step reads are R = D + H numbers: the averages of all heads, then the count
   of each. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#define LANES ((int)(BYTES / sizeof(REAL)))

#define INLINE static inline __attribute__((always_inline))

/* compiled.py takes no library of another number than its own: raise both with every change of what is called. */
int kernels_version(void) { return 10; }

#define REAL float
#define WHOLE int32_t
#define NAME(name) name##_float
#include "kernels/all.h"

#define REAL double
#define WHOLE int64_t
#define NAME(name) name##_double
#include "kernels/all.h"
