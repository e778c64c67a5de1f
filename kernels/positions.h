/* The coordinate tables of tables.py, operation for operation, so that no bit differs. */

#ifndef POSITIONS_H
#define POSITIONS_H

#include <stdint.h>

/* table [4, size] as of tables.coordinate_tables, for one crop_from_frame [2, 3]. */
void positions_of(const double *crop_from_frame, int32_t size, int32_t *table);

#endif
