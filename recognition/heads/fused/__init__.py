"""Both passes over the centers as kernels that form their products themselves, for CUDA."""
