/* Everything for one type of number: kernels.c defines REAL, WHOLE (integers of its size) and NAME (its suffix). */

#include "vectors.h"
#include "attention.h"
#include "layer.h"
#include "act.h"

#undef vec
#undef flags
#undef Layer
#undef Segment
#undef Block
#undef WIDE
#undef COUNT_STEP
#undef TOGETHER
#undef FAINTEST
#undef LONGEST
#undef LEAST
#undef EACH_HALF
#undef ADD_HALF
#undef SWAP_HALVES
#undef REAL
#undef WHOLE
#undef NAME
