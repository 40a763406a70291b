/* The passes over an activation, for one element type. passes.c includes this file once per type and defines
   T, the type in memory; ACC, the type of the arithmetic; LOAD and STORE, which convert between them; and F(name), a
   function's name for this type.

   rows: each map is contiguous ("NCHW"): `rows` = N*C maps of `space` elements.
   last: the channels of a position are contiguous ("channels last"): N samples of `space` positions of `channels`.

   center, scale, shift, c1, c0, extra and the sums are (N, C). Means and squared deviations are double: a mean of many
   standard deviations would lose too much in single precision.

   pointers.py has checked the shape, type and layout behind every pointer. Comments say which pointers may be null.
   Every function returns 1, or 0 if it got no scratch memory, and then it has written nothing. */
#include "rows.h"
#include "last.h"
#include "few.h"
