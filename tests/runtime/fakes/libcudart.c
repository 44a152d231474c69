/* The calls of libcudart that the runtime makes, on host memory, for machines without a GPU.
   GPU_NAME, SM_MAJOR, SM_MINOR, VERSION, FREE_BYTES and, for CUDA 12, HAS_V2 are given when it is compiled. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef int status;
enum { fine = 0, invalid_value = 1, out_of_memory = 2 };

struct properties { char name[256]; char rest[776]; };

status cudaSetDevice(int device) { return device == 0 ? fine : invalid_value; }
status cudaRuntimeGetVersion(int *version) { *version = VERSION; return fine; }

status cudaDeviceGetAttribute(int *value, int attribute, int device) {
    if (device != 0 || (attribute != 75 && attribute != 76)) return invalid_value;
    *value = attribute == 75 ? SM_MAJOR : SM_MINOR;
    return fine;
}

#ifdef HAS_V2
status cudaGetDeviceProperties(struct properties *out, int device) { (void)out; (void)device; return invalid_value; }
#define cudaGetDeviceProperties cudaGetDeviceProperties_v2
#endif
status cudaGetDeviceProperties(struct properties *out, int device) {
    if (device != 0) return invalid_value;
    memset(out, 0, sizeof *out);
    strcpy(out->name, GPU_NAME);
    return fine;
}

status cudaMemGetInfo(size_t *free_bytes, size_t *total) { *free_bytes = FREE_BYTES; *total = 2 * (size_t)FREE_BYTES; return fine; }

status cudaMalloc(void **pointer, size_t size) {
    if (size > FREE_BYTES) return out_of_memory;
    *pointer = malloc(size);
    return *pointer ? fine : out_of_memory;
}

status cudaFree(void *pointer) { free(pointer); return fine; }

status cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    if ((kind != 1 && kind != 2) || !stream) return invalid_value;
    memcpy(to, from, size);
    return fine;
}

status cudaStreamCreate(void **stream) { *stream = malloc(1); return *stream ? fine : out_of_memory; }
status cudaStreamDestroy(void *stream) { free(stream); return fine; }
status cudaStreamSynchronize(void *stream) { return stream ? fine : invalid_value; }

const char *cudaGetErrorString(status error) { return error == out_of_memory ? "out of memory" : "invalid argument"; }
