/* SPDX-License-Identifier: Apache-2.0 */
/* probe.cu: the smallest kernel: that it wrote its word shows that a device runs what this library was built for. */

extern "C" {
__device__ unsigned choir_probe_word;

__global__ void choir_probe(unsigned value)
{
    choir_probe_word = value;
}
}
