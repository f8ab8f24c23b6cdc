// The operations of the forward pass, fixed at the fused level that every device implements.
//
// Every operation computes each output element in an order of operations that depends on that
// element's own inputs and absolute position alone: not on how many other tokens are in the call,
// how rows are chunked, or how many threads there are. That is what makes a request's bytes the
// same at any load.
#pragma once

#include "kernels/add_rms_norm.h"
#include "kernels/embed.h"
#include "kernels/join_columns.h"
#include "kernels/matmul.h"
#include "kernels/paged_attention.h"
#include "kernels/rope_store_kv.h"
#include "kernels/sample.h"
#include "kernels/silu_mul.h"
