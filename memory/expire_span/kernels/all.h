/* Everything for one type of number: kernels.c defines REAL, WHOLE (integers of its size) and NAME (its suffix). */

#include "vectors.h"
#include "layer.h"
#include "segment.h"
#include "gradient.h"
#include "act.h"

#undef vec
#undef flags
#undef Layer
#undef Segment
#undef Block
#undef WIDE
#undef SAVED
#undef COUNT_STEP
#undef AGES
#undef LEAST
#undef EACH_HALF
#undef ADD_HALF
#undef SWAP_HALVES
#undef REAL
#undef WHOLE
#undef NAME
