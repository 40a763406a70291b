/* The passes over an activation, for one element type: T is how an element lies in memory, ACC what is computed in,
   LOAD and STORE go from one to the other, F(name) names the function. Included once for each type by passes.c.

   rows: the map of a sample's channel is contiguous ("NCHW"): `rows` = N*C maps of `space` elements.
   last: channels lie side by side ("channels last"): N samples of `space` positions of `channels` elements.

   center, scale, shift, c1, c0, extra are (N, C); so are the sums. Means and squared deviations come in double: where the
   mean is many standard deviations, its own rounding would be seen.

   Every pointer has passed pointers.py, which knows its shape, type and layout. A pointer that may be null is said to be.
   Every function returns 1 if it is done, 0 if there was no memory for its scratch; nothing has been written then. */
#include "rows.h"
#include "last.h"
#include "few.h"
