// The operations of the forward pass. Their set is fixed at the fused level that every device
// implements.
//
// Every operation computes each output element in an order that depends on that element's own
// inputs and absolute position alone: not on the number of other tokens in the call, on how rows
// are cut into chunks, or on the number of threads. That is what makes a request's output the same
// bytes at any load.
#pragma once

#include "kernels/add_rms_norm.h"
#include "kernels/embed.h"
#include "kernels/join_columns.h"
#include "kernels/matmul.h"
#include "kernels/paged_attention.h"
#include "kernels/rope_store_kv.h"
#include "kernels/sample.h"
#include "kernels/silu_mul.h"
