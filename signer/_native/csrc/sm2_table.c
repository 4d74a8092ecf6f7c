/* The one copy of the comb table in a program. */
#include "sm2_table.h"

#include "sm2_comb_table.h"
