// Where NVIDIA's optional libraries are looked for: one order for all of them, the one that koala doctor reports.
#pragma once

/** Loads the first of `count` names that a place has, newest name first: the folders of KOALA_CUDA_LIBS (colons between
 *  them), then where the system's loader looks, then /usr/local/cuda and its like with a version, newest first. nullptr where
 *  none has any; dlerror() tells of the last one tried. Libraries among a Python's packages are named in KOALA_CUDA_LIBS. */
void* find_library(const char* const* names, int count);
